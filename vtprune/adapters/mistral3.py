"""Mistral Small 3.1 and later: Pixtral tower, 2x2 merger, Mistral with 1-D RoPE.

The marks that end the rows of an image are text.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.adapters.pixtral import packed_images, packed_rows, packed_windows, project_one_below_the_other
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter


def _project(model: Any, features: Tensor) -> Tensor:
    return project_one_below_the_other(model, model.base_model.multi_modal_projector, features)


ADAPTER = Adapter(
    name="mistral3",
    summary="Mistral Small 3.1 and later (Pixtral tower)",
    architectures=("Mistral3ForConditionalGeneration",),
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
