"""PaliGemma (arXiv 2407.07726) and PaliGemma 2 (arXiv 2412.03555): SigLIP tower, one token per patch, linear projector.

The prompt attends to itself in both directions. PaliGemma 2 has sliding layers among the full ones and caps attention
scores, which only the eager kernel computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.adapters.depth import whole_tower
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    patch = model.config.vision_config.patch_size
    h, w = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    return [VisionInput(h * w, (1, h, w), image, number) for number, image in enumerate(pixels)]


def _rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    rows = torch.arange(sum(image.tokens for image in images))[:, None]
    return list(rows.split([image.tokens for image in images]))


def _project(model: Any, features: Tensor) -> Tensor:
    return model.base_model.multi_modal_projector(features.squeeze(1))


ADAPTER = Adapter(
    name="paligemma",
    summary="PaliGemma and PaliGemma 2",
    architectures=("PaliGemmaForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=_rows,
    projector_rows=_rows,
    tower_depth=whole_tower,
    project=_project,
    unique=unique_images("pixel_values"),
)
