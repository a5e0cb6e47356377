"""InternVL (arXiv 2504.10479), 2.5 to 3.5 in their transformers format: tower with a CLS token, pixel shuffle, Qwen2 or
Llama with 1-D RoPE.

The shuffle runs before the projector, so at `vision.output` a token's features are its four patches side by side. The
frames of a video are images to this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters.depth import chosen_layers
from vtprune.adapters.pixel_shuffle import shuffled_rows, square_crops
from vtprune.adapters.rows import one_row_each, project_row
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
    projector_rows=one_row_each,
    tower_depth=chosen_layers,
    project=project_row,
    cls_row=lambda model: 0,
    unique=unique_images("pixel_values"),
)
