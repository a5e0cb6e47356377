"""What the exactness tests share: the model matrix, generation with every step's logits, masks from a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import product
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import vtprune
from vtprune.core.component import Scorer
from vtprune.core.report import Report
from vtprune.core.signals import Need, Signals
from vtprune.testing.models import Inputs, Tiny, tiny_llava, tiny_qwen2_5_vl, vision_mask
from vtprune.testing.reference import MaskedReference

TOLERANCE = 1e-5
POWER = 0.1
STEPS = 20
FAMILIES: dict[str, Callable[[], Tiny]] = {
    "llava-sdpa": lambda: tiny_llava("sdpa"),
    "llava-eager": lambda: tiny_llava("eager"),
    "qwen-sdpa": lambda: tiny_qwen2_5_vl("sdpa"),
    "qwen-eager": lambda: tiny_qwen2_5_vl("eager"),
    "mistral-sdpa": lambda: tiny_llava("sdpa", "mistral"),
    "mistral-eager": lambda: tiny_llava("eager", "mistral"),
    "window-sdpa": lambda: tiny_llava("sdpa", "mistral", sliding_window=12),
    "window-eager": lambda: tiny_llava("eager", "mistral", sliding_window=12),
}
BATCHES = {"single": (1,), "two_images": (2,), "padded": (1, 2, 0, 1)}
LLAVA_AND_QWEN = [name for name in FAMILIES if name.startswith(("llava", "qwen"))]
PER_HEAD = {"name": "attention", "head_reduction": "none"}
Stages = list[dict[str, Any]]


def matrix(*axes: Iterable[str], slow: Callable[..., bool] = lambda *_: False) -> list[Any]:
    """Every combination as a named parameter set; those that `slow` accepts carry the marker."""
    return [
        pytest.param(*point, id="-".join(point), marks=[pytest.mark.slow] * slow(*point)) for point in product(*axes)
    ]


def family(name: str) -> Tiny:
    return FAMILIES[name]()


def inputs_of(name: str, batch: str, seed: int = 0) -> Inputs:
    """The text around the images is short where the window is, so that decoding still sees them."""
    text = (2, 3) if name.startswith("window") else (2, 6)
    return family(name).make_inputs(BATCHES[batch], seed=seed, text=text)


def two_samples(name: str, seed: int = 4) -> Inputs:
    """Two samples of different lengths, of which Qwen2.5-VL's second has two images.

    LLaVA's has one: transformers up to 5.17 gives the beams of a sample one another's images where samples hold
    different numbers of images.
    """
    return family(name).make_inputs((1, 2 if name.startswith("qwen") else 1), seed=seed, text=(2, 3))


class Generated(NamedTuple):
    """tokens: int64 ``[row, step]``; logits: float ``[step, row, vocabulary]``; scores: of the beams, or None."""

    tokens: Tensor
    logits: Tensor
    scores: Tensor | None


def generate(model: PreTrainedModel, inputs: Mapping[str, Tensor], steps: int = STEPS, **options: Any) -> Generated:
    """Generate from a fixed seed. Greedy unless the options say otherwise."""
    torch.manual_seed(0)
    settings = {"do_sample": False, "use_cache": True, **options}
    output = model.generate(
        **inputs, max_new_tokens=steps, return_dict_in_generate=True, output_logits=True, output_scores=True, **settings
    )
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    return Generated(tokens, torch.stack(output.logits), getattr(output, "sequences_scores", None))


@cache
def plain(name: str, batch: str) -> tuple[Tensor, Generated]:
    """Logits of forward() ``[batch, token, vocabulary]`` and greedy generation of the unpruned model."""
    model, inputs = family(name).model, inputs_of(name, batch)
    with torch.no_grad():
        return model(**inputs).logits, generate(model, inputs)


def masks_of(report: Report, tokens: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """`MaskedReference`'s maps ``hide`` and ``hide_kv`` of what a report says was dropped from rows of ``tokens``."""
    batch = len(report.layouts)
    hide: dict[int, Tensor] = {}
    hide_kv: dict[int, Tensor] = {}
    for index, stage in enumerate(report.recipe.stages):
        for layer in sorted({event.layer for event in report.stage_events(index)}):
            heads = len(report.kv_tokens[0][layer]) if stage.site.kind == "kv" else 1
            mask = torch.ones(batch, heads, tokens, dtype=torch.bool)
            for sample, layout in enumerate(report.layouts):
                for head in range(heads):
                    which = head if stage.site.kind == "kv" else None
                    mask[sample, head, layout.positions] = False
                    kept = report.kept(index, sample, layer, which)
                    mask[sample, head, layout.positions[kept]] = True
            if stage.site.kind == "kv":
                hide_kv[layer] = mask
            else:
                first = 0 if stage.site.is_tower else layer
                hide.update(dict.fromkeys(range(first, report.depth), mask[:, 0]))
    return hide, hide_kv


def reference(model: PreTrainedModel, report: Report, tokens: int) -> MaskedReference:
    """The masked reference of what a report says was dropped."""
    return MaskedReference(model, *masks_of(report, tokens))


def survivors(report: Report, inputs: Inputs) -> Tensor:
    """bool ``[batch, token]``: the real tokens that leave the last layer."""
    hide, _ = masks_of(report, inputs["input_ids"].shape[1])
    real = inputs["attention_mask"].bool()
    return real & hide[report.depth - 1] if hide else real


def has_image(inputs: Inputs) -> Tensor:
    """bool ``[batch]``."""
    return vision_mask(inputs).any(-1)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def run(name: str, inputs: Inputs, stages: Stages, steps: int = STEPS, **options: Any) -> tuple[Generated, Report]:
    model = family(name).model
    with vtprune.prune(model, {"stages": stages}) as pruning:
        return generate(model, inputs, steps, **options), pruning.report


def taken(module: nn.Module, read: Callable[..., Any], call: Callable[[], object]) -> list[Any]:
    """What ``read(args, kwargs)`` finds in every call of ``module`` while ``call`` runs."""
    found: list[Any] = []
    handle = module.register_forward_pre_hook(lambda _, a, k: found.append(read(a, k)), with_kwargs=True)
    call()
    handle.remove()
    return found


def assert_agree(one: Generated, other: Generated) -> None:
    """Greedy generations agree: equal tokens, and logits within the tolerance at every step.

    Where the two best logits of a row tie within the tolerance, rounding may choose either; the row is compared up to
    there. Enough steps must have been compared.
    """
    compared = 0
    for row in range(len(one.tokens)):
        for step, (chosen, expected) in enumerate(zip(one.tokens[row], other.tokens[row], strict=True)):
            assert distance(one.logits[step, row], other.logits[step, row]) < TOLERANCE, f"row {row}, step {step}"
            compared += 1
            if chosen != expected:
                gap = other.logits[step, row, expected] - other.logits[step, row, chosen]
                assert gap < TOLERANCE, f"row {row}, step {step}: token {chosen} instead of {expected}"
                break
    assert compared >= 0.4 * one.tokens.numel()


class Spy(Scorer):
    """Scores by index (so that a budget keeps the last tokens) and notes the signals it was given, sample by sample."""

    wanted: tuple[Need, ...]
    seen: ClassVar[list[tuple[Any, Tensor, dict[Need, Tensor]]]] = []

    def needs(self) -> frozenset[Need]:
        return frozenset(self.wanted)

    def score(self, signals: Signals) -> Tensor:
        for sample, layout in enumerate(signals.layouts):
            values = {need: signals.get(need)[sample].clone() for need in self.wanted}
            self.seen.append((layout, signals.alive[sample], values))
        return signals.alive.float()


def spied(
    model: PreTrainedModel, inputs: Inputs, site: str, *wanted: Need, before: Stages | None = None, **stage: Any
) -> tuple[list[tuple[Tensor, dict[Need, Tensor]]], Report]:
    """What components see at a site, after the stages ``before``: per sample the survivors and the signals."""
    Spy.seen.clear()
    own = {"site": site, "scorer": Spy(wanted=wanted), "budget": 1.0, **stage}
    with vtprune.prune(model, {"stages": [*(before or []), own]}) as pruning:
        model(**inputs)
        report = pruning.report
    by_layout = {id(layout): (alive, values) for layout, alive, values in Spy.seen}
    nothing: tuple[Tensor, dict[Need, Tensor]] = (torch.empty(0, dtype=torch.int64), {})
    return [by_layout.get(id(layout), nothing) for layout in report.layouts], report
