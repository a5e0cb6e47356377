"""Pixtral (arXiv 2410.07073): LLaVA's architecture with a tower that packs images of any size; nothing is merged.

The marks that end the rows of an image are text.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.adapters.pixtral import packed_images, packed_rows, packed_windows
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter


def _project(model: Any, features: Tensor) -> Tensor:
    made: Tensor = model.base_model.multi_modal_projector(features.squeeze(1))
    return made


ADAPTER = Adapter(
    name="pixtral",
    summary="Pixtral (LLaVA's architecture with a Pixtral tower)",
    architectures=("LlavaForConditionalGeneration",),
    tower_types=("pixtral",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="transformer.layers",
    vision_attention="attention",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=packed_images,
    tower_rows=packed_rows,
    projector_rows=packed_rows,
    project=_project,
    windows=packed_windows,
    unique=unique_images("pixel_values", "image_sizes"),
)
