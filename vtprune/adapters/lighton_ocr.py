"""LightOnOCR: Pixtral tower, 2x2 merger, Qwen3 with 1-D RoPE."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.adapters.pixtral import packed_images, packed_rows, packed_windows, project_one_below_the_other
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter


def _project(model: Any, features: Tensor) -> Tensor:
    return project_one_below_the_other(model, model.base_model.vision_projection, features)


ADAPTER = Adapter(
    name="lighton_ocr",
    summary="LightOnOCR (Pixtral tower)",
    architectures=("LightOnOcrForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_encoder",
    vision_layers="transformer.layers",
    vision_attention="attention",
    projector="vision_projection",
    placeholders={"image": "image_token_id"},
    images=packed_images,
    tower_rows=packed_rows,
    projector_rows=packed_rows,
    project=_project,
    windows=packed_windows,
    unique=unique_images("pixel_values", "image_sizes"),
)
