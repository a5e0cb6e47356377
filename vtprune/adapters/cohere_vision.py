"""Aya Vision (arXiv 2505.08751) and Command A Vision: SigLIP tower, pixel shuffle, Cohere2, in which layers
with a sliding window and 1-D RoPE take turns with full ones without positions.

The crops of an image and the image as a whole are inputs of their own, with marks in the text between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters.depth import chosen_layers
from vtprune.adapters.pixel_shuffle import shuffled_rows, square_crops
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    side = pixels.shape[-2] // model.config.vision_config.patch_size // model.config.downsample_factor
    return square_crops(pixels, side)


def _rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return shuffled_rows(images, model.config.downsample_factor)


def _project(model: Any, features: Tensor) -> Tensor:
    """The projector shuffles a token's patches together as if they were an image by themselves."""
    return model.base_model.multi_modal_projector(features).flatten(0, -2)


ADAPTER = Adapter(
    name="cohere_vision",
    summary="Aya Vision and Command A Vision",
    architectures=("AyaVisionForConditionalGeneration", "Cohere2VisionForConditionalGeneration"),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=_rows,
    projector_rows=_rows,
    tower_depth=chosen_layers,
    project=_project,
    unique=unique_images("pixel_values"),
)
