"""From images to samples: what stages inside the vision tower did, once it is known whose images they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vtprune.core.engine.apply import removed
from vtprune.core.engine.decide import Choice
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.images import ImageRecord, TowerEvent
from vtprune.core.engine.plan import BoundStage
from vtprune.core.engine.steps import Step
from vtprune.core.errors import BudgetError

Acted = tuple[BoundStage, int, list[Choice], list[tuple[Tensor, ...]]]


def what_stages_did(flow: Flow, stages: Sequence[BoundStage]) -> Iterator[Acted]:
    """For each stage and vision layer what every sample kept, counted in its prompt: the sum over its images; the
    diagnostics are their mean. Raises BudgetError if the tower gave up a token that the answer starts from."""
    for sample, left in enumerate(left_the_tower(flow)):
        total = flow.layouts[sample].vision
        if flow.ends_in_vision[sample] and int(left[-1] if len(left) else -1) != total - 1:
            raise BudgetError(
                f"the prompt of sample {sample} ends with a vision token, from which the answer starts, but a stage "
                f"inside the vision tower dropped it; put text after the image, or set protect: [-1] there"
            )
    for bound in stages:
        for layer in bound.layers:
            choices: list[Choice] = []
            kept: list[tuple[Tensor, ...]] = []
            for records in flow.records:
                tokens, requested, diagnostics = _over_images(records, bound.index, layer)
                choices.append(Choice(torch.ones(0, dtype=torch.bool), requested, diagnostics))
                kept.append((tokens,))
            yield bound, layer, choices, kept


def left_the_tower(flow: Flow) -> list[Tensor]:
    """Per sample int64 CPU: the vision tokens whose patches left the tower, counted in the prompt."""
    return [_joined(records, [record.alive for record in records]) for records in flow.records]


def drop_what_is_gone(
    flow: Flow, rotary: Tensor | None, shift: Tensor | None, stages: Sequence[BoundStage]
) -> list[Step]:
    """Take the tokens whose patches are gone out of the sequence that enters the language model; the step that does so
    to hidden states, or none."""
    if any(record.sizes is not None for records in flow.records for record in records):
        flow.sizes = torch.ones(flow.batch, flow.width, device=flow.device)
        for sample, records in enumerate(flow.records):
            for record, at in zip(records, _positions(flow, sample), strict=True):
                if record.sizes is not None:
                    flow.sizes[sample, at] = record.sizes.to(flow.device)
    left = left_the_tower(flow)
    if all(len(left[sample]) == flow.layouts[sample].vision for sample in range(flow.batch)):
        return []
    reindex = any(bound.stage.positions == "reindex" for bound in stages)
    return [removed(flow, 0, left, rotary if reindex else None, shift)]


def _positions(flow: Flow, sample: int) -> Iterator[Tensor]:
    """The columns of a sample's images, before anything was dropped."""
    layout = flow.layouts[sample]
    for segment in layout.segments:
        yield layout.positions[segment.start : segment.stop].to(flow.device)


def _over_images(
    records: Sequence[ImageRecord], stage: int, layer: int
) -> tuple[Tensor, tuple[int, ...], dict[str, float]]:
    events = [_event(record, stage, layer) for record in records]
    tokens = _joined(records, [event.kept for event in events])
    names = dict.fromkeys(name for event in events for name in event.diagnostics)
    means = {name: sum(event.diagnostics[name] for event in events) / len(events) for name in names}
    return tokens, (sum(event.requested[0] for event in events),), means


def _event(record: ImageRecord, stage: int, layer: int) -> TowerEvent:
    return next(event for event in record.events if (event.stage, event.layer) == (stage, layer))


def _joined(records: Sequence[ImageRecord], tokens: Sequence[Tensor]) -> Tensor:
    """Tokens counted in each image as tokens counted in the sample."""
    made, start = [torch.empty(0, dtype=torch.int64)], 0
    for record, own in zip(records, tokens, strict=True):
        made.append(own + start)
        start += record.image.tokens
    return torch.cat(made)
