"""What the robustness tests share: models of both families, small recipes, components that misbehave, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vtprune import Report
from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals
from vtprune.testing.models import IMAGE, Tiny, tiny_llava, tiny_qwen2_5_vl
from vtprune.testing.reference import MaskedReference
from vtprune.testing.restoration import changes, snapshot, unchanged  # noqa: F401 - tests take them from here

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


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
