"""Where a sample's answer can be seen, on the grid of its vision tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.core.task import Region, Sample, Video

Grid = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""left, top, right, bottom, as shares of a picture's width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def annotation(sample: Sample, grids: Sequence[Grid], crops: Sequence[Box] | None = None) -> Tensor:
    """Share of each vision token's area that lies in a region of its sample: float32 ``[vision]``, 0 to 1 (the largest
    of the regions' shares).

    grids: for each visual of the sample (frames, rows, columns) of its tokens, in the order of the prompt. crops: what
    the model sees of each visual; all of it where it is not given. A region outside lies in no token.
    """
    parts = []
    crops = [WHOLE] * len(grids) if crops is None else crops
    for index, (grid, crop) in enumerate(zip(grids, crops, strict=True)):
        frames, rows, columns = grid
        seen = torch.zeros(frames, rows, columns)
        for region in sample.regions:
            if region.visual == index:
                seen = torch.maximum(seen, _share(region, sample, grid, crop))
        parts.append(seen.flatten())
    return torch.cat(parts) if parts else torch.zeros(0)


def crop_of(visual: Image.Image | Video, processor: Any, images_kwargs: Mapping[str, Any] | None = None) -> Box:
    """The part of a visual that an image processor of transformers lets through: made square by padding, resized, then
    cut from its centre.

    It reaches beyond the picture where the processor pads. images_kwargs: what the processor is told in the call. All
    of a visual where the processor cuts and pads nothing, and where it does what is not known here: videos, tiles,
    other ways to resize before a cut.
    """
    images = getattr(processor, "image_processor", None)
    if isinstance(visual, Video) or getattr(images, "image_grid_pinpoints", None):
        return WHOLE
    given, padded = visual.size, WHOLE
    if getattr(images, "do_pad", False) and hasattr(images, "pad_to_square"):
        given, padded = (max(given),) * 2, _squared(given)
    if not getattr(images, "do_center_crop", False):
        return padded
    told = images_kwargs or {}
    size = told.get("size", getattr(images, "size", None)) if getattr(images, "do_resize", False) else None
    cut = told.get("crop_size", getattr(images, "crop_size", None))
    resized = _resized(given, size)
    if not cut or not resized:
        return padded
    left, top, right, bottom = padded
    inner = centre_crop(resized, (cut["width"], cut["height"]))
    return (
        left + inner[0] * (right - left),
        top + inner[1] * (bottom - top),
        left + inner[2] * (right - left),
        top + inner[3] * (bottom - top),
    )


def _squared(size: tuple[int, int]) -> Box:
    """The shares of a picture of ``size`` (width, height) that the square around it holds."""
    (width, height), side = size, max(size)
    left, top = (side - width) // 2, (side - height) // 2
    return -left / width, -top / height, (side - left) / width, (side - top) / height


def _resized(size: tuple[int, int], to: Mapping[str, int] | None) -> tuple[int, int] | None:
    """(width, height) of a picture after it was resized, as transformers resizes; None for ways not known here."""
    if to is None:
        return size
    if "width" in to and "height" in to:
        return to["width"], to["height"]
    if "shortest_edge" not in to or "longest_edge" in to:
        return None
    short, long = sorted(size)
    longer = int(to["shortest_edge"] * long / short)
    return (to["shortest_edge"], longer) if size[0] == short else (longer, to["shortest_edge"])


def centre_crop(size: tuple[int, int], cut: tuple[int, int]) -> Box:
    """The shares of a picture of ``size`` (width, height) that a cut of ``cut`` pixels from its centre holds; below 0
    and above 1 where the cut is the larger."""
    (width, height), (wide, high) = size, cut
    left, top = (width - wide) // 2, (height - high) // 2
    return left / width, top / height, (left + wide) / width, (top + high) / height


def within(box: Box, crop: Box) -> Box | None:
    """A box of a picture as shares of a crop of it, cut off at its edges; None if it lies outside."""
    sides = []
    for axis in (0, 1):
        start, extent = crop[axis], crop[axis + 2] - crop[axis]
        low, high = (min(max((box[side] - start) / extent, 0.0), 1.0) for side in (axis, axis + 2))
        if low >= high:
            return None
        sides.append((low, high))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def _share(region: Region, sample: Sample, grid: Grid, crop: Box) -> Tensor:
    frames, rows, columns = grid
    box = within(region.box, crop)
    if box is None:
        return torch.zeros(frames, rows, columns)
    left, top, right, bottom = box
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
