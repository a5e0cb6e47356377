"""How much of a model keeps each vision token, where layers and heads keep different ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vtprune.core.report import Report


def kept_shares(report: Report, stage: int, sample: int) -> list[float] | None:
    """For each vision token of a sample's prompt, the share of a ``.kv`` stage's (layer, KV head) pairs that keep it.

    To four decimals. None of another stage, which keeps a token or does not, and of a sample without an image.
    """
    vision = report.layouts[sample].vision
    events = [event for event in report.stage_events(stage) if event.sample == sample]
    if report.recipe.stages[stage].site.kind != "kv" or not vision or not events:
        return None
    total = torch.zeros(vision, dtype=torch.float64)
    for event in events:
        for kept in event.kept:  # one for each KV head, or one for all of them
            total[kept.cpu()] += 1 / len(event.kept)
    return [round(share, 4) for share in (total / len(events)).tolist()]
