"""Layouts and buckets: every kind of sample that the engine may hand to a component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vtprune.core.layout import SampleLayout, Segment

Grid = tuple[int, int, int]
Kind = Literal["image", "video"]


def layout(
    *grids: Grid | int,
    start: int = 4,
    gap: int = 2,
    kinds: Sequence[Kind] | None = None,
    images: Sequence[int] | None = None,
    row_ends: bool = False,
) -> SampleLayout:
    """A sample whose segments follow one another.

    grids: (t, h, w) of each segment, or its number of tokens where it has no grid. start: position of the first vision
    token; gap: text tokens between two segments. kinds: of each segment; default: images. images: which image each
    segment belongs to (crops of one share it); default: one each. row_ends: the last column holds separators.
    """
    segments: list[Segment] = []
    positions: list[Tensor] = []
    stop, place = 0, start
    for index, grid in enumerate(grids):
        size = grid if isinstance(grid, int) else grid[0] * grid[1] * grid[2]
        segments.append(
            Segment(
                index,
                stop,
                stop + size,
                None if isinstance(grid, int) else grid,
                "image" if kinds is None else kinds[index],
                index if images is None else images[index],
                row_ends,
            )
        )
        positions.append(torch.arange(place, place + size))
        stop, place = stop + size, place + size + gap
    return SampleLayout(torch.cat(positions) if positions else torch.arange(0), tuple(segments))


def everything(layouts: Sequence[SampleLayout]) -> Tensor:
    """int64 ``[batch, vision]``: no token dropped yet."""
    return torch.stack([torch.arange(one.vision) for one in layouts])


@dataclass(frozen=True)
class Bucket:
    """Samples that a component sees together: as many vision tokens each in the prompt, and as many left.

    alive: int64 ``[batch, vision]``, ascending; default: every token.
    """

    layouts: tuple[SampleLayout, ...]
    alive: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.alive is None:
            object.__setattr__(self, "alive", everything(self.layouts))

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.layouts)

    @property
    def vision(self) -> int:
        """Vision tokens that each sample has left."""
        return int(self.alive.shape[1])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens that the first sample has left in each segment."""
        alive = self.alive[0]
        return tuple(int(((alive >= s.start) & (alive < s.stop)).sum()) for s in self.layouts[0].segments)

    @property
    def original(self) -> tuple[int, ...]:
        """Tokens of the first sample's segments in the prompt."""
        return tuple(len(segment) for segment in self.layouts[0].segments)

    def take(self, samples: Sequence[int]) -> Bucket:
        """Some of the samples, in this order."""
        return Bucket(tuple(self.layouts[sample] for sample in samples), self.alive[list(samples)])


def one_image(batch: int = 3, grid: Grid = (1, 3, 4)) -> Bucket:
    """Samples of one image each."""
    return Bucket(tuple(layout(grid) for _ in range(batch)))


def one_token() -> Bucket:
    """Two samples of a single vision token."""
    return Bucket((layout((1, 1, 1)), layout((1, 1, 1), start=0)))


def several_images() -> Bucket:
    """Three samples of 16 vision tokens: three unequal images, the middle one of one token; one image; two images."""
    return Bucket(
        (layout((1, 2, 3), (1, 1, 1), (1, 3, 3)), layout((1, 4, 4), start=0), layout((1, 1, 1), (1, 3, 5), gap=0))
    )


def crops() -> Bucket:
    """Two samples of two images, the first of which is cut into two crops; separators end the rows of the first."""
    images = (0, 0, 1)
    grids: tuple[Grid, ...] = ((1, 2, 3), (1, 2, 3), (1, 3, 2))
    return Bucket((layout(*grids, images=images, row_ends=True), layout(*grids, images=images)))


def videos() -> Bucket:
    """Two samples of 16 vision tokens: a video of four frames; an image and a video of three."""
    return Bucket((layout((4, 2, 2), kinds=["video"]), layout((1, 2, 2), (3, 2, 2), kinds=["image", "video"])))


def no_grid() -> Bucket:
    """Two samples of images whose tokens have neither rows nor columns."""
    return Bucket((layout(5, 7), layout(12)))


def survivors() -> Bucket:
    """Two samples of three images each that have lost tokens: other ones each, the first and the last among them; one
    image has kept everything and one, of one sample, has nothing left."""
    one = layout((1, 2, 3), (1, 1, 1), (1, 3, 3))
    alive = torch.tensor([[1, 2, 5, 6, 7, 9, 14], [6, 7, 8, 10, 11, 13, 14]])
    return Bucket((one, layout((1, 2, 3), (1, 1, 1), (1, 3, 3), start=0)), alive)


def like_survivors() -> Bucket:
    """Two samples of four unequal images that have equally many tokens left in each, none in the second."""
    grids: tuple[Grid, ...] = ((1, 2, 4), (1, 2, 2), (1, 1, 1), (1, 3, 3))
    alive = torch.tensor([[1, 2, 7, 12, 13, 20], [0, 3, 4, 12, 16, 19]])
    return Bucket((layout(*grids), layout(*grids)), alive)
