"""PaliGemma (arXiv 2407.07726) and PaliGemma 2 (arXiv 2412.03555): SigLIP tower, one token per patch, linear projector.

The prompt attends to itself in both directions. PaliGemma 2 has sliding layers among the full ones and caps attention
scores, which only the eager kernel computes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.adapters.depth import whole_tower
from vtprune.adapters.rows import one_row_each, project_row
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    patch = model.config.vision_config.patch_size
    h, w = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    return [VisionInput(h * w, (1, h, w), image, number) for number, image in enumerate(pixels)]


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
    tower_rows=one_row_each,
    projector_rows=one_row_each,
    tower_depth=whole_tower,
    project=project_row,
    unique=unique_images("pixel_values"),
)
