"""InternVL (arXiv 2504.10479), 2.5 to 3.5 in their transformers format: tower with a CLS token, pixel shuffle, Qwen2 or
Llama with 1-D RoPE.

The shuffle runs before the projector, so at `vision.output` a token's features are its four patches side by side. The
frames of a video are images to this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters.pixel_shuffle import shuffled_rows, square_crops, token_rows
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _factor(model: Any) -> int:
    return round(1 / model.config.downsample_ratio)


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    patch, _ = model.config.vision_config.patch_size
    return square_crops(pixels, pixels.shape[-2] // patch // _factor(model))


def _tower_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return shuffled_rows(images, _factor(model), first=1)


def _tower_depth(model: Any) -> int:
    layer = model.config.vision_feature_layer
    return int(layer % (model.config.vision_config.num_hidden_layers + 1))


def _project(model: Any, features: Tensor) -> Tensor:
    return model.base_model.multi_modal_projector(features.squeeze(1))


ADAPTER = Adapter(
    name="internvl",
    summary="InternVL 2.5, 3 and 3.5 (transformers format)",
    architectures=("InternVLForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layer",
    vision_attention="attention",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=_tower_rows,
    projector_rows=lambda model, call, images: token_rows(images),
    tower_depth=_tower_depth,
    project=_project,
    cls_row=lambda model: 0,
    unique=unique_images("pixel_values"),
)
