"""What a report says was removed, as masks of the independent reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtprune.core.report import Report
from vtprune.testing.hidden_patches import reference_tower
from vtprune.testing.reference import MaskedReference
from vtprune.verify.compare import Disagreement

Masks = dict[int, Tensor]


def masks_of(report: Report, tokens: int, start: int = 0) -> tuple[Masks, Masks]:
    """`MaskedReference`'s maps ``hide`` and ``hide_kv``, for prompts padded to ``tokens``.

    start: positions below it belong to an earlier turn, whose removals another report tells.
    """
    batch = len(report.layouts)
    hide: Masks = {}
    hide_kv: Masks = {}
    for index, stage in enumerate(report.recipe.stages):
        for layer in sorted({event.layer for event in report.stage_events(index)}):
            heads = len(report.kv_tokens[0][layer]) if stage.site.kind == "kv" else 1
            mask = torch.ones(batch, heads, tokens, dtype=torch.bool)
            for sample, layout in enumerate(report.layouts):
                for head in range(heads):
                    kept = report.kept(index, sample, layer, head if stage.site.kind == "kv" else None)
                    positions = layout.positions + start
                    mask[sample, head, positions] = False
                    mask[sample, head, positions[kept]] = True
            if stage.site.kind == "kv":
                hide_kv[layer] = mask
            else:
                first = 0 if stage.site.is_tower else layer
                hide.update(dict.fromkeys(range(first, report.depth), mask[:, 0]))
    return hide, hide_kv


def reference(model: PreTrainedModel, report: Report, tokens: int, start: int = 0) -> AbstractContextManager[None]:
    """The masked reference of what a report says was removed, in the tower and in the language model.

    Raises ValueError, before it is entered, where masks cannot hide that: in towers that the reference does not know.
    """
    masks = [MaskedReference(model, *masks_of(report, tokens, start))]
    if any(stage.site.is_tower for stage in report.recipe.stages):
        return _all(*masks, reference_tower(model, report.family, report))
    return _all(*masks)


@contextmanager
def _all(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for each in contexts:
            stack.enter_context(each)
        yield


def survivors(report: Report, inputs: Mapping[str, Tensor]) -> Tensor:
    """bool ``[batch, token]``: the real tokens that leave the last layer."""
    hide, _ = masks_of(report, inputs["input_ids"].shape[1])
    real = inputs["attention_mask"].bool()
    return real & hide[report.depth - 1] if hide else real


def acted(report: Report, everything: bool) -> None:
    """Raise Disagreement unless every stage decided to keep ``everything`` (or not), for every sample with an image."""
    for index, stage in enumerate(report.recipe.stages):
        events = {event.sample: event for event in report.stage_events(index)}
        for sample, layout in enumerate(report.layouts):
            if not layout.vision:
                continue
            if sample not in events:
                raise Disagreement(f"the stage at {stage.site} did not act on sample {sample}, which has an image")
            counts = events[sample].realised
            if everything and any(count != layout.vision for count in counts):
                raise Disagreement(f"the stage at {stage.site} kept {counts} of {layout.vision} tokens, not all")
            if not everything and all(count == layout.vision for count in counts):
                raise Disagreement(f"the stage at {stage.site} removed none of {layout.vision} tokens")
