"""Layouts, and the buckets of samples that a component sees together."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from vtprune.core.layout import SampleLayout
from vtprune.testing.inputs.layouts import Bucket, Grid, Kind, layout


def grids(most: int = 24, frames: int = 4) -> st.SearchStrategy[Grid]:
    """(t, h, w) of an image (t is 1, the likelier) or of a video, of at most ``most`` tokens."""
    sides = st.tuples(st.sampled_from([1, 1, *range(2, frames + 1)]), st.integers(1, 6), st.integers(1, 6))
    return sides.filter(lambda grid: grid[0] * grid[1] * grid[2] <= most)


@st.composite
def layouts(
    draw: st.DrawFn, *, min_images: int = 0, max_images: int = 4, vision: int | None = None, grid: bool = True
) -> SampleLayout:
    """The layout of one sample: images of unequal size, one-token images, crops, separators and videos.

    vision: the number of vision tokens in all; the last image then makes up for what is missing. grid: whether every
    segment has one; otherwise some have none.
    """
    shapes: list[Grid] = []
    left = vision
    if vision is None:
        shapes = draw(st.lists(grids(), min_size=min_images, max_size=max_images))
    while left:
        size = left if len(shapes) + 1 == max_images else draw(st.integers(1, left))
        height = draw(st.sampled_from([side for side in range(1, size + 1) if size % side == 0]))
        shapes.append((1, height, size // height))
        left -= size
    kinds: list[Kind] = ["video" if shape[0] > 1 else "image" for shape in shapes]
    crops = draw(st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)))
    images = [sum(1 for crop in crops[1 : index + 1] if not crop) for index in range(len(shapes))]
    segments: list[Grid | int] = list(shapes)
    if not grid:
        bare = draw(st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)))
        segments = [t * h * w if without else (t, h, w) for (t, h, w), without in zip(shapes, bare, strict=True)]
    return layout(
        *segments,
        start=draw(st.integers(0, 6)),
        gap=draw(st.integers(0, 3)),
        kinds=kinds,
        images=images,
        row_ends=draw(st.booleans()),
    )


@st.composite
def buckets(draw: st.DrawFn, *, max_batch: int = 4, most: int = 24, grid: bool = True, dropped: bool = True) -> Bucket:
    """Samples with as many vision tokens each, and as many left; which ones, and in which images, differs.

    most: vision tokens in the prompt. grid: see `layouts`. dropped: whether tokens may be gone; one at least is left.
    """
    batch, vision = draw(st.integers(1, max_batch)), draw(st.integers(1, most))
    samples = tuple(draw(layouts(vision=vision, grid=grid)) for _ in range(batch))
    left = draw(st.integers(1, vision)) if dropped else vision
    alive = [sorted(draw(st.permutations(range(vision)))[:left]) for _ in range(batch)]
    return Bucket(samples, torch.tensor(alive))
