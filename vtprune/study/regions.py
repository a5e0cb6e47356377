"""Where a sample's answer can be seen, on the grid of its vision tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtprune.core.task import Region, Sample, Video

Grid = tuple[int, int, int]


def annotation(sample: Sample, grids: Sequence[Grid]) -> Tensor:
    """Share of each vision token's area that lies in a region of its sample: float32 ``[vision]``, 0 to 1 (the largest
    of the regions' shares).

    grids: for each visual of the sample (frames, rows, columns) of its tokens, in the order of the prompt.
    """
    parts = []
    for index, grid in enumerate(grids):
        frames, rows, columns = grid
        seen = torch.zeros(frames, rows, columns)
        for region in sample.regions:
            if region.visual == index:
                seen = torch.maximum(seen, _share(region, sample, grid))
        parts.append(seen.flatten())
    return torch.cat(parts) if parts else torch.zeros(0)


def _share(region: Region, sample: Sample, grid: Grid) -> Tensor:
    frames, rows, columns = grid
    left, top, right, bottom = region.box
    area = _overlap(top, bottom, rows)[:, None] * _overlap(left, right, columns)[None, :]
    shown = torch.ones(frames)
    visual = sample.visuals[region.visual]
    if region.frame is not None and isinstance(visual, Video):
        shown = torch.zeros(frames)
        shown[min(region.frame * frames // len(visual.frames), frames - 1)] = 1
    return shown[:, None, None] * area


def _overlap(start: float, stop: float, count: int) -> Tensor:
    """Share of each of ``count`` equal parts of [0, 1] that [start, stop] covers: float32 ``[count]``."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    shared = torch.minimum(edges[1:], torch.tensor(stop)) - torch.maximum(edges[:-1], torch.tensor(start))
    return (shared.clamp(min=0) * count).float()
