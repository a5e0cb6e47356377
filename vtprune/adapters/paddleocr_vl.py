"""PaddleOCR-VL (arXiv 2510.14528): packed patches in raster order, a projector that joins 2x2 of them, M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vtprune.adapters.qwen_like import frames, grids, packed, rectangles
from vtprune.core.adapter import VisionCall, VisionInput


def _merge(model: Any) -> int:
    return int(model.config.vision_config.spatial_merge_size)


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    return rectangles(call, [_merge(model)] * len(grids(call)))


def _rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    rows, start, merge = [], 0, _merge(model)
    for t, h, w in grids(call).tolist():
        patches = torch.arange(start, start + t * h * w).view(t, h, w)
        rows.append(rearrange(patches, "t (h m) (w n) -> (t h w) (m n)", m=merge, n=merge))
        start += t * h * w
    return rows


def _project(model: Any, features: Tensor) -> Tensor:
    """The projector, on units that stand as frames of one token each."""
    merge = _merge(model)
    grid = torch.tensor([[len(features), merge, merge]], device=features.device)
    return model.base_model.projector(features.flatten(0, 1), grid)


def _windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    return [frames(call)] * len(model.base_model.visual.vision_model.encoder.layers)


ADAPTER = packed(
    name="paddleocr_vl",
    summary="PaddleOCR-VL",
    architectures=("PaddleOCRVLForConditionalGeneration",),
    placeholders={"image": "image_token_id"},
    vision_tower="visual.vision_model",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="projector",
    images=_images,
    tower_rows=_rows,
    projector_rows=_rows,
    project=_project,
    windows=_windows,
)
