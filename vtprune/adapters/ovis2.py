"""Ovis2 (arXiv 2405.20797): a tower whose visual head turns merged patches into words of a visual vocabulary, Qwen2
with 1-D RoPE.

What stands for the projector is the visual head with the embedding table: at `vision.output` a token's features are the
merged patches that enter the head, side by side. FLOPs leave out the product with the table, an embedding by its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.adapters.depth import whole_tower
from vtprune.adapters.pixel_shuffle import shuffled_rows, square_crops
from vtprune.adapters.rows import one_row_each
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput
from vtprune.core.errors import UnsupportedModeError


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    config = model.config.vision_config
    return square_crops(pixels, pixels.shape[-2] // config.patch_size // config.hidden_stride)


def _tower_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return shuffled_rows(images, model.config.vision_config.hidden_stride)


def _project(model: Any, features: Tensor) -> Tensor:
    tower, table = model.base_model.vision_tower, model.base_model.visual_embeddings_table
    logits = tower.head_norm(tower.head_linear(features.squeeze(1)))
    rule = tower.config.tokenize_function
    if rule == "softmax":
        words = logits.softmax(-1)
    elif rule == "st_argmax":
        words = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    else:
        raise UnsupportedModeError(
            f"this Ovis2 draws visual words at random (tokenize_function={rule!r}), so features merged at "
            f"vision.output have no fixed embedding; merge at projector.output"
        )
    return words @ table.weight[: words.shape[-1]]


ADAPTER = Adapter(
    name="ovis2",
    summary="Ovis2",
    architectures=("Ovis2ForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="transformer.encoder.layers",
    vision_attention="attention",
    projector="vision_tower.head_linear",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=_tower_rows,
    projector_rows=one_row_each,
    tower_depth=whole_tower,
    project=_project,
    unique=unique_images("pixel_values"),
)
