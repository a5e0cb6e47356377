"""The image-downsampling baseline: fewer pixels in, so fewer vision tokens, and nothing is pruned.

A family with dynamic resolution (Qwen2.5-VL) makes fewer tokens of a smaller image by itself. A CLIP tower has one
resolution: its processor is told a smaller size, and its learned positions are interpolated to the smaller grid, as
`interpolate_pos_encoding` of transformers does it; LLaVA's processor counts its placeholders by the pixels it makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from vtprune.core.errors import VtpruneError
from vtprune.core.lookup import locate
from vtprune.core.task import Sample, Video


class DownsamplingError(VtpruneError):
    """A model whose images cannot be made smaller."""


@dataclass(frozen=True)
class Shrink:
    """How samples are made smaller. share: of the pixels that is left; unit: pixels per side of one vision token;
    images_kwargs: what the processor must be told."""

    share: float
    unit: int
    images_kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, sample: Sample) -> Sample:
        """The sample with every image and frame at about ``share`` of its pixels, each side a multiple of ``unit``."""

        def of(part: Any) -> Any:
            if isinstance(part, Video):
                return replace(part, frames=tuple(map(self._smaller, part.frames)))
            return self._smaller(part) if isinstance(part, Image.Image) else part

        return replace(sample, content=tuple(map(of, sample.content)))

    def _smaller(self, image: Image.Image) -> Image.Image:
        width, height = (self.side(side) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def side(self, pixels: int) -> int:
        """The nearest multiple of the unit to a side of ``share`` of the pixels, one unit at least."""
        return max(1, round(pixels * math.sqrt(self.share) / self.unit)) * self.unit


@contextmanager
def downsampled(model: Any, processor: Any, share: float) -> Iterator[Shrink]:
    """Inside, ``model`` takes smaller images than it was made for; the `Shrink` makes them.

    Raises DownsamplingError if the tower has one resolution and cannot interpolate its positions.
    """
    tower = locate(model).vision_tower
    config: Any = tower.config
    merge = getattr(config, "spatial_merge_size", 1)
    fixed = getattr(config, "image_size", None)
    if not isinstance(fixed, int):
        yield Shrink(share, config.patch_size * merge)
        return
    embeddings = [module for module in tower.modules() if hasattr(module, "interpolate_pos_encoding")]
    if not embeddings:
        raise DownsamplingError(
            f"{type(tower).__name__} takes images of {fixed} x {fixed} pixels only and cannot interpolate its position "
            f"embeddings, so this model has no image-downsampling baseline; leave it out with baselines: "
            f"{{without: [downsample]}}"
        )
    shrink = Shrink(share, config.patch_size)
    side = shrink.side(fixed)
    images: Any = getattr(processor, "image_processor", None)
    told = {}
    if getattr(images, "do_resize", False):
        told["size"] = {"shortest_edge": side} if "shortest_edge" in images.size else {"height": side, "width": side}
    if getattr(images, "do_center_crop", False):
        told["crop_size"] = {"height": side, "width": side}
    with ExitStack() as stack:
        for module in embeddings:
            stack.callback(module.register_forward_pre_hook(_interpolate, with_kwargs=True).remove)
        yield replace(shrink, images_kwargs=told)


def _interpolate(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "interpolate_pos_encoding": True}
