"""What the Idefics family shares: pixels ``[batch, image, channel, height, width]``, padded in number and in size."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.core.adapter import VisionCall


def real_images(model: Any, call: VisionCall) -> list[Tensor]:
    """The images ``[channel, height, width]`` that the tower sees, without their padding, in the order of the samples.

    The model takes an image whose pixels are all zero for padding; so does this.
    """
    pixels: Tensor = call.arguments["pixel_values"].flatten(0, 1)
    masks = call.arguments.get("pixel_attention_mask")
    real = (pixels.to(model.dtype) != 0).flatten(1).any(1)
    if masks is None:
        return list(pixels[real])
    masks = masks.flatten(0, 1)[real].bool()
    heights, widths = masks.any(2).sum(1).tolist(), masks.any(1).sum(1).tolist()
    return [image[:, :h, :w] for image, h, w in zip(pixels[real], heights, widths, strict=True)]
