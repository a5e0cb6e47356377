"""Gemma 3 (arXiv 2503.19786): SigLIP tower, average pooling in the projector, sliding and full layers.

While the prompt is read, the tokens of an image attend to one another in both directions. Pan-and-scan crops are images
of their own to the model, and to vtprune.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vtprune.adapters.depth import whole_tower
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _projector(model: Any) -> Any:
    return model.base_model.multi_modal_projector


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    side = _projector(model).tokens_per_side
    return [
        VisionInput(side**2, (1, side, side), image, number)
        for number, image in enumerate(call.arguments["pixel_values"])
    ]


def _rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """The patches of each token: one window of the pooling."""
    projector = _projector(model)
    side, window = projector.patches_per_image, projector.kernel_size
    patches = torch.arange(side**2).view(side, side)[: side // window * window, : side // window * window]
    one = rearrange(patches, "(h a) (w b) -> (h w) (a b)", a=window, b=window)
    return [one + image.image * side**2 for image in images]


def _project(model: Any, features: Tensor) -> Tensor:
    """The projector behind its pooling, which here is the mean of a token's own patches."""
    projector = _projector(model)
    normed = projector.mm_soft_emb_norm(features.mean(1))
    return (normed @ projector.mm_input_projection_weight).type_as(features)


ADAPTER = Adapter(
    name="gemma3",
    summary="Gemma 3 with vision",
    architectures=("Gemma3ForConditionalGeneration",),
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
