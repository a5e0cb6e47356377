"""Qwen2.5-VL (arXiv 2502.13923): no CLS token, window attention in the tower, 2x2 merger, M-RoPE, GQA.

Inside the tower the patches stand in window order, four patches (one merger unit) together; everything handed to a
component is brought back to the raster order of language-model tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from vtprune.core.adapter import Adapter, VisionInput


def _tower(model: Any) -> Any:
    return model.base_model.visual


def _inputs(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[VisionInput]:
    patches: Tensor = args[0] if args else kwargs["hidden_states"]
    grids: Tensor = args[1] if len(args) > 1 else kwargs["grid_thw"]
    merge = _tower(model).spatial_merge_size
    found, start = [], 0
    for t, h, w in grids.tolist():
        count = t * h * w
        grid = (t, h // merge, w // merge)
        found.append(VisionInput(count // merge**2, grid, patches[start : start + count]))
        start += count
    return found


def _window_index(model: Any, images: Sequence[VisionInput]) -> tuple[Tensor, Tensor]:
    """For every merger unit in window order its raster index, and the cumulative patch lengths of the windows."""
    tower = _tower(model)
    merge = tower.spatial_merge_size
    grids = torch.tensor([(t, h * merge, w * merge) for t, h, w in (image.grid or (0, 0, 0) for image in images)])
    return get_vision_window_index(
        grids, spatial_merge_size=merge, window_size=tower.window_size, patch_size=tower.patch_size, kwargs={}
    )


def _to_raster(model: Any, units: Tensor, images: Sequence[VisionInput]) -> list[Tensor]:
    """Merger units in window order along axis 0 to one tensor per image in raster order."""
    index, _ = _window_index(model, images)
    order = torch.argsort(index).to(units.device)
    return list(torch.split(units[order], [image.tokens for image in images]))


def _features(model: nn.Module, projector_input: Tensor, images: Sequence[VisionInput]) -> list[Tensor]:
    unit = _tower(model).spatial_merge_unit
    return _to_raster(model, rearrange(projector_input, "(vision unit) dim -> vision unit dim", unit=unit), images)


def _project(model: Any, features: Tensor) -> Tensor:
    return _tower(model).merger(rearrange(features, "vision unit dim -> (vision unit) dim"))


def _attention(model: nn.Module, calls: Sequence[Tensor], images: Sequence[VisionInput]) -> list[Tensor]:
    rows = torch.cat([call[0] for call in calls], dim=-1)
    unit = _tower(model).spatial_merge_unit
    pooled = reduce(rows, "head (vision unit) -> vision head", "mean", unit=unit)
    return [image.T for image in _to_raster(model, pooled, images)]


def _windows(model: Any, images: Sequence[VisionInput]) -> list[list[int]]:
    tower = _tower(model)
    _, cumulative = _window_index(model, images)
    local = (cumulative[1:] - cumulative[:-1]).tolist()
    whole = [
        image.tokens // image.grid[0] * tower.spatial_merge_unit
        for image in images
        if image.grid
        for _ in range(image.grid[0])
    ]
    full = set(tower.fullatt_block_indexes)
    return [whole if layer in full else local for layer in range(len(tower.blocks))]


ADAPTER = Adapter(
    name="qwen2_5_vl",
    summary="Qwen2.5-VL",
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    language_model="language_model",
    vision_tower="visual",
    vision_layers="blocks",
    vision_attention="attn",
    projector="visual.merger",
    placeholders={"image": "image_token_id", "video": "video_token_id"},
    inputs=_inputs,
    features=_features,
    project=_project,
    attention=_attention,
    cls_row=lambda model: None,
    windows=_windows,
)
