"""The vision towers' own order and outputs, read without vtprune."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.exactness.helpers import taken
from vtprune.testing.models import QWEN_MERGE, QWEN_PATCH, Grid, Inputs


def window_order(grid: Grid, side: int) -> list[list[int]]:
    """Raster indices of an image's merged tokens, window by window, as Qwen2.5-VL's tower orders them.

    grid: t, h, w in merged tokens; side: of a window, in merged tokens. Windows at the border are smaller.
    """
    frames, height, width = grid
    windows = []
    for frame, top, left in product(range(frames), range(0, height, side), range(0, width, side)):
        rows, columns = range(top, min(top + side, height)), range(left, min(left + side, width))
        windows.append([(frame * height + row) * width + column for row, column in product(rows, columns)])
    return windows


def merged_grids(inputs: Inputs) -> list[Grid]:
    """Each image's grid in merged tokens (Qwen2.5-VL)."""
    return [(t, h // QWEN_MERGE, w // QWEN_MERGE) for t, h, w in inputs["image_grid_thw"].tolist()]


def windows_of(model: Any, inputs: Inputs) -> list[list[list[int]]]:
    """For each image of the batch its windows, as `window_order` gives them (Qwen2.5-VL)."""
    side = model.config.vision_config.window_size // QWEN_MERGE // QWEN_PATCH
    return [window_order(grid, side) for grid in merged_grids(inputs)]


def image_features(model: Any, inputs: Inputs) -> list[Tensor]:
    """What each image brings to the projector, ``[vision, unit * dim]`` in raster order; LLaVA's unit is one patch,
    Qwen2.5-VL's four."""
    if "image_grid_thw" not in inputs:
        projector = model.model.multi_modal_projector
        return list(taken(projector, lambda args, _: args[0], lambda: model(**inputs))[0])
    rows = taken(model.model.visual.merger, lambda args, _: args[0], lambda: model(**inputs))[0]
    units = rows.reshape(len(rows) // QWEN_MERGE**2, -1)
    images, start = [], 0
    for windows in windows_of(model, inputs):
        raster = torch.empty(sum(map(len, windows)), units.shape[1])
        for index in (index for window in windows for index in window):
            raster[index] = units[start]
            start += 1
        images.append(raster)
    return images


def project(model: Any, features: Tensor) -> Tensor:
    """``[vision, unit * dim]`` to embeddings ``[vision, dim]``."""
    if hasattr(model.model, "multi_modal_projector"):
        return model.model.multi_modal_projector(features)
    return model.model.visual.merger(features.reshape(len(features) * QWEN_MERGE**2, -1))
