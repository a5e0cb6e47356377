"""LightOnOCR: Pixtral tower, 2x2 merger, Qwen3 with 1-D RoPE."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.adapters.pixtral_like import pixtral_like, project_one_below_the_other


def _project(model: Any, features: Tensor) -> Tensor:
    return project_one_below_the_other(model, model.base_model.vision_projection, features)


ADAPTER = pixtral_like(
    name="lighton_ocr",
    summary="LightOnOCR (Pixtral tower)",
    architectures=("LightOnOcrForConditionalGeneration",),
    vision_tower="vision_encoder",
    projector="vision_projection",
    project=_project,
)
