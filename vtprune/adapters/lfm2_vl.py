"""LFM2-VL (arXiv 2511.23404): SigLIP2 tower for images and tiles of any shape, 2x2 pixel unshuffle in the projector.

Most decoder layers are short convolutions. They have no keys and values, so only the attention layers are .kv sites.
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


def _factor(model: Any) -> int:
    return model.base_model.multi_modal_projector.factor


def _shapes(call: VisionCall) -> list[tuple[int, int]]:
    """Height and width of each image in patches."""
    return [(h, w) for h, w in call.arguments["spatial_shapes"].tolist()]


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    pixels: Tensor = call.arguments["pixel_values"]
    factor = _factor(model)
    return [
        VisionInput(h * w // factor**2, (1, h // factor, w // factor), pixels[number, : h * w], number)
        for number, (h, w) in enumerate(_shapes(call))
    ]


def _units(model: Any, call: VisionCall, padded: int | None) -> list[Tensor]:
    """The patches of each token, in sequences that are padded to so many patches per image, or not at all."""
    factor, start, rows = _factor(model), 0, []
    for h, w in _shapes(call):
        patches = torch.arange(start, start + h * w)
        rows.append(rearrange(patches, "(h a w b) -> (h w) (a b)", h=h // factor, a=factor, b=factor))
        start += h * w if padded is None else padded
    return rows


def _tower_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return _units(model, call, call.arguments["pixel_values"].shape[1])


def _projector_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return _units(model, call, None)


def _project(model: Any, features: Tensor) -> Tensor:
    """Every token as an image of one pooling window."""
    factor = _factor(model)
    windows = rearrange(features, "vision (a b) dim -> vision a b dim", a=factor)
    return model.base_model.multi_modal_projector(windows).flatten(0, 2)


ADAPTER = Adapter(
    name="lfm2_vl",
    summary="LFM2-VL, with convolutions among its decoder layers",
    architectures=("Lfm2VlForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    tower_rows=_tower_rows,
    projector_rows=_projector_rows,
    tower_depth=whole_tower,
    project=_project,
    unique=unique_images("pixel_values", "spatial_shapes", "pixel_attention_mask"),
)
