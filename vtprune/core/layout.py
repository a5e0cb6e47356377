"""The token layout: where a sample's vision tokens stand and which image each belongs to.

A layout is always per sample and made of segments; it is never one (start, end) pair, so several images, images of
different sizes and samples without an image need no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """One image, crop of an image, or video of a sample, as vision tokens the language model sees.

    ``grid`` is (t, h, w) in language-model tokens, or None when the family gives no rectangular grid.
    ``start`` and ``stop`` count among the sample's vision tokens, so ``stop - start`` is the segment's size.
    ``image`` counts the sample's images and videos; the crops of one share it.
    ``row_ends``: the last column of the grid is made of separators (newline tokens), which stand for no patch.
    """

    index: int
    start: int
    stop: int
    grid: tuple[int, int, int] | None = None
    kind: Literal["image", "video"] = "image"
    image: int = 0
    row_ends: bool = False

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class SampleLayout:
    """The vision tokens of one sample in the prompt as it came in.

    positions: int64 ``[vision]``, the position of each vision token in the (padded) prompt, ascending.
    segments: the images in prompt order; together they cover ``range(vision)`` without gaps.
    """

    positions: Tensor
    segments: tuple[Segment, ...]

    @property
    def vision(self) -> int:
        """Number of vision tokens."""
        return int(self.positions.numel())

    def coordinates(self) -> Tensor:
        """int64 ``[vision, 4]``: segment, t, row and column of every vision token.

        Raises ValueError if a segment has no grid.
        """
        rows = []
        for segment in self.segments:
            if segment.grid is None:
                raise ValueError(f"segment {segment.index} has no grid, so its tokens have no coordinates")
            t, h, w = segment.grid
            axes = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
            flat = torch.stack([axis.reshape(-1) for axis in axes], dim=-1)
            rows.append(torch.cat([torch.full((len(flat), 1), segment.index), flat], dim=-1))
        return torch.cat(rows) if rows else torch.empty(0, 4, dtype=torch.int64)
