"""LLaVA-1.5 (arXiv 2310.03744): CLIP tower, MLP projector, Llama-like language model with 1-D RoPE.

With ``vision_feature_select_strategy="default"`` the CLS token is cut before the projector; with ``"full"`` it stays
as an ordinary vision token, and the tokens then form no grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _extra_tokens(model: Any) -> int:
    """Tokens of the tower's sequence that are no patches (1 for CLIP's CLS, 0 for SigLIP)."""
    return int(hasattr(_embeddings(model), "class_embedding"))


def _embeddings(model: Any) -> nn.Module:
    tower = model.base_model.vision_tower
    return getattr(tower, "vision_model", tower).embeddings


def _cut(model: Any) -> int:
    """How many tokens at the front of the tower's sequence do not reach the projector."""
    return int(model.config.vision_feature_select_strategy == "default")


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    patch = model.config.vision_config.patch_size
    h, w = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    tokens = h * w + _extra_tokens(model) - _cut(model)
    grid = (1, h, w) if tokens == h * w else None
    return [VisionInput(tokens, grid, image, number) for number, image in enumerate(pixels)]


def _rows(images: Sequence[VisionInput], first: int) -> list[Tensor]:
    """One row per token, in sequences of which the first ``first`` rows become no token."""
    each = [first + image.tokens for image in images]
    return [torch.arange(number * length + first, (number + 1) * length)[:, None] for number, length in enumerate(each)]


def _project(model: Any, features: Tensor) -> Tensor:
    return model.base_model.multi_modal_projector(features.squeeze(1))


ADAPTER = Adapter(
    name="llava",
    summary="LLaVA-1.5 and models of its architecture",
    architectures=("LlavaForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=lambda model, call, images: _rows(images, _cut(model)),
    projector_rows=lambda model, call, images: _rows(images, 0),
    project=_project,
    cls_row=lambda model: 0 if _extra_tokens(model) and _cut(model) else None,
    unique=unique_images("pixel_values"),
)
