"""What the robustness tests share: models of both families, small recipes, components that misbehave, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from vtprune import Report
from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals
from vtprune.testing.models import IMAGE, Tiny, tiny_llava, tiny_qwen2_5_vl
from vtprune.testing.reference import MaskedReference

LAYERS, KV_HEADS = 4, 2
FAMILIES: dict[str, Callable[..., Tiny]] = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl}
ATTENTIONS = ("sdpa", "eager")
DROP = {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.5}
INPUT_DROP = {"site": "projector.output", "scorer": "random", "budget": 0.5}
EVICT = {"site": "llm.layers[1:].kv", "scorer": {"name": "attention", "head_reduction": "none"}, "budget": 0.5}
STAGES: dict[str, list[dict[str, Any]]] = {
    "input": [INPUT_DROP],
    "drop": [DROP],
    "evict": [EVICT],
    "both": [DROP, EVICT],
}


def warm(tiny: Tiny) -> Tiny:
    """The same model after its first forward, at which transformers puts on hooks of its own that stay."""
    logits(tiny.model, tiny.make_inputs((1,)))
    return tiny


def recipe(*stages: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of these stages."""
    return {"name": "scene", "stages": list(stages)}


def tokens(model: Any, inputs: Mapping[str, Tensor], steps: int = 6, **options: Any) -> Tensor:
    """Greedily generated ids, int64 ``[batch, step]``."""
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=steps, do_sample=False, **options)
    return output[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def logits(model: Any, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
    """float ``[batch, token, vocabulary]``."""
    return model(**inputs, **options).logits


# -- scorers that tests put into recipes -----------------------------------------------------------------------------


class Failing(Scorer):
    """Raises in the middle of a forward."""

    def score(self, signals: Signals) -> Tensor:
        raise RuntimeError("the scorer gave up")


class Constant(Scorer):
    """The same score for every token."""

    value: float = 0.0

    def score(self, signals: Signals) -> Tensor:
        return torch.full((signals.batch, signals.vision), self.value)


class Hostile(Scorer):
    """Never for the tokens listed, always for all others."""

    against: tuple[int, ...]

    def score(self, signals: Signals) -> Tensor:
        hated = torch.isin(signals.alive, torch.tensor(self.against))
        return torch.where(hated, -torch.inf, torch.inf)


class Callback(Scorer):
    """Scores made by a function of the signals."""

    reads: tuple[Need, ...] = ()
    of: Callable[[Signals], Tensor]

    def needs(self) -> frozenset[Need]:
        return frozenset(self.reads)

    def score(self, signals: Signals) -> Tensor:
        return self.of(signals)


# -- what a run kept, as masks of the reference -----------------------------------------------------------------------


def reference_of(model: Any, report: Report, inputs: Mapping[str, Tensor]) -> MaskedReference:
    """The masked reference that hides what ``report`` says was removed."""
    ids = inputs["input_ids"]
    vision = ids == IMAGE
    hide: dict[int, Tensor] = {}
    hide_kv: dict[int, Tensor] = {}
    for event in report.events:
        stays = [_kept(vision[event.sample], rows) for rows in event.kept]
        if report.recipe.stages[event.stage].site.kind == "kv":
            whole = torch.ones(len(ids), KV_HEADS, ids.shape[1], dtype=torch.bool)
            row = torch.stack(stays if len(stays) > 1 else stays * KV_HEADS)
            hide_kv.setdefault(event.layer, whole)[event.sample] &= row
        else:
            for layer in range(event.layer, LAYERS):
                hide.setdefault(layer, torch.ones_like(vision))[event.sample] &= stays[0]
    return MaskedReference(model, hide, hide_kv)


def _kept(vision: Tensor, kept: Tensor) -> Tensor:
    gone = torch.ones(int(vision.sum()), dtype=torch.bool)
    gone[kept] = False
    row = torch.ones_like(vision)
    row[vision.nonzero()[:, 0][gone]] = False
    return row


# -- everything that leaving the context has to restore ---------------------------------------------------------------

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)
SELF_WRITTEN = ("rope_deltas",)  # Qwen2.5-VL notes it at every prompt, with and without vtprune


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything outside the numbers that pruning could leave changed, by a readable name."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for kind in HOOKS:
            found[f"{name}.{kind}"] = list(getattr(module, kind).items())
        skipped = {*HOOKS, "_parameters", "_buffers", "_modules", *SELF_WRITTEN}
        found[f"{name}.attributes"] = {key: id(value) for key, value in vars(module).items() if key not in skipped}
        found[f"{name}.forward"] = module.forward.__func__  # type: ignore[union-attr]
        if hasattr(module, "config"):
            found[f"{name}.config"] = module.config.to_dict()
            found[f"{name}.attention"] = module.config._attn_implementation
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"tensor {name}"] = (id(tensor), tensor._version, tensor.requires_grad)
    found["generation config"] = model.generation_config.to_dict()  # type: ignore[union-attr]
    found["attention table"] = dict(AttentionInterface._global_mapping)
    found["mask table"] = dict(AttentionMaskInterface._global_mapping)
    found["local attention table"] = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs between two snapshots."""
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """The body must leave the models as it found them."""
    before = [snapshot(model) for model in models]
    yield
    for model, old in zip(models, before, strict=True):
        assert changes(old, snapshot(model)) == []


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
