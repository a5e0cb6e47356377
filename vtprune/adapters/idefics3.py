"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): SigLIP tower, pixel shuffle, Llama with 1-D RoPE.

The crops of an image and the image as a whole are inputs of their own, with marks in the text between them. The frames
of a video (SmolVLM) are images to this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters.depth import whole_tower
from vtprune.adapters.idefics import real_images
from vtprune.adapters.pixel_shuffle import shuffled_rows, square_crops
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    height = call.arguments["pixel_values"].shape[-2]
    side = height // model.config.vision_config.patch_size // model.config.scale_factor
    return square_crops(real_images(model, call), side)


def _rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return shuffled_rows(images, model.config.scale_factor)


def _project(model: Any, features: Tensor) -> Tensor:
    """The connector shuffles a token's patches together as if they were an image by themselves."""
    return model.base_model.connector(features).squeeze(1)


ADAPTER = Adapter(
    name="idefics3",
    summary="Idefics3 and SmolVLM",
    architectures=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    language_model="text_model",
    vision_tower="vision_model",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="connector",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=_rows,
    projector_rows=_rows,
    tower_depth=whole_tower,
    project=_project,
)
