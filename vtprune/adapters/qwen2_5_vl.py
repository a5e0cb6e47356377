"""Qwen2.5-VL (arXiv 2502.13923): no CLS token, window attention in the tower, 2x2 merger, M-RoPE, GQA.

Inside the tower the patches stand in window order, four patches (one merger unit) together; everything handed to a
component is brought back to the raster order of language-model tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from vtprune.adapters.qwen_like import frames, grids, packed, split, tower, unit
from vtprune.core.adapter import VisionCall, VisionInput


def _window_index(model: Any, call: VisionCall) -> tuple[Tensor, Tensor]:
    """For every merger unit in window order its raster index, and the cumulative patch lengths of the windows."""
    visual = tower(model)
    return get_vision_window_index(
        grids(call).cpu(),
        spatial_merge_size=visual.spatial_merge_size,
        window_size=visual.window_size,
        patch_size=visual.patch_size,
        kwargs={},
    )


def _rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """The patches of each token: those of one merger unit, which stand together, in window order."""
    index, _ = _window_index(model, call)
    each = unit(model)
    rows = rearrange(torch.arange(len(index) * each), "(vision unit) -> vision unit", unit=each)
    return split(rows[torch.argsort(index)], images)


def _windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    visual = tower(model)
    _, cumulative = _window_index(model, call)
    local = (cumulative[1:] - cumulative[:-1]).tolist()
    whole, full = frames(call), set(visual.fullatt_block_indexes)
    return [whole if layer in full else local for layer in range(len(visual.blocks))]


ADAPTER = packed(
    name="qwen2_5_vl",
    summary="Qwen2.5-VL",
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    tower_rows=_rows,
    projector_rows=_rows,
    windows=_windows,
)
