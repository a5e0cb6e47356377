"""LLaVA-1.5 (arXiv 2310.03744): CLIP tower, MLP projector, Llama-like language model with 1-D RoPE.

With ``vision_feature_select_strategy="default"`` the CLS token is cut before the projector; with ``"full"`` it stays
as an ordinary vision token, and the tokens then form no grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Adapter, VisionInput


def _extra_tokens(model: Any) -> int:
    """Tokens of the tower's sequence that are no patches (1 for CLIP's CLS, 0 for SigLIP)."""
    return int(hasattr(_embeddings(model), "class_embedding"))


def _embeddings(model: Any) -> nn.Module:
    tower = model.base_model.vision_tower
    return getattr(tower, "vision_model", tower).embeddings


def _cuts_first(model: Any) -> bool:
    return model.config.vision_feature_select_strategy == "default"


def _grid(model: Any, height: int, width: int) -> tuple[int, int]:
    patch = model.config.vision_config.patch_size
    return height // patch, width // patch


def _inputs(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[VisionInput]:
    pixels: Tensor = args[0] if args else kwargs["pixel_values"]
    h, w = _grid(model, *pixels.shape[-2:])
    tokens = h * w + _extra_tokens(model) - int(_cuts_first(model))
    grid = (1, h, w) if tokens == h * w else None
    return [VisionInput(tokens, grid, image) for image in pixels]


def _features(model: nn.Module, projector_input: Tensor, images: Sequence[VisionInput]) -> list[Tensor]:
    return [image.unsqueeze(1) for image in projector_input]


def _project(model: Any, features: Tensor) -> Tensor:
    return model.base_model.multi_modal_projector(features.squeeze(1))


def _attention(model: nn.Module, calls: Sequence[Tensor], images: Sequence[VisionInput]) -> list[Tensor]:
    return list(torch.cat(list(calls))[:, :, int(_cuts_first(model)) :])


def _cls_row(model: Any) -> int | None:
    return 0 if _extra_tokens(model) and _cuts_first(model) else None


def _windows(model: Any, images: Sequence[VisionInput]) -> list[list[int]]:
    lengths = [image.tokens + int(_cuts_first(model)) for image in images]
    return [lengths] * model.config.vision_config.num_hidden_layers


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
    inputs=_inputs,
    features=_features,
    project=_project,
    attention=_attention,
    cls_row=_cls_row,
    windows=_windows,
)
