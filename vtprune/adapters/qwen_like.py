"""What families share that pack the patches of all images into one sequence: Qwen-VL, GLM-V and their kin.

Each image comes as a grid (t, h, w) of patches; ``merge`` by ``merge`` patches of a frame form a unit, stand together
in the tower's sequence and become one language-model token. Units stand in raster order, unless a tower permutes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vtprune.adapters.sharing import unique_packed
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def tower(model: Any) -> Any:
    """The vision tower."""
    return model.base_model.visual


def unit(model: Any) -> int:
    """How many patches become one token."""
    return int(tower(model).spatial_merge_size ** 2)


def grids(call: VisionCall) -> Tensor:
    """int64 ``[image, 3]``: (t, h, w) in patches."""
    return call.arguments[f"{call.modality}_grid_thw"]


def rectangles(call: VisionCall, merges: Sequence[int]) -> list[VisionInput]:
    """One rectangle per image or video; merges: for each, how many patches a token spans in height and in width."""
    patches: Tensor = call.arguments["pixel_values" if call.modality == "image" else "pixel_values_videos"]
    sizes = grids(call).tolist()
    pixels = patches.split([t * h * w for t, h, w in sizes])
    return [
        VisionInput(t * h * w // merge**2, (t, h // merge, w // merge), pixels[number], number)
        for number, ((t, h, w), merge) in enumerate(zip(sizes, merges, strict=True))
    ]


def images(model: Any, call: VisionCall) -> list[VisionInput]:
    """One rectangle per image or video."""
    return rectangles(call, [tower(model).spatial_merge_size] * len(grids(call)))


def split(rows: Tensor, images: Sequence[VisionInput]) -> list[Tensor]:
    """Rows of all tokens of a call, image by image."""
    return list(rows.split([image.tokens for image in images]))


def unit_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """int64 ``[vision, unit]`` per image: the patches of each token, where units stand in raster order."""
    each = unit(model)
    rows = torch.arange(sum(image.tokens for image in images) * each)
    return split(rearrange(rows, "(vision unit) -> vision unit", unit=each), images)


def project(model: Any, features: Tensor) -> Tensor:
    """The merger on some tokens' units."""
    return tower(model).merger(rearrange(features, "vision unit dim -> (vision unit) dim"))


def frames(call: VisionCall) -> list[int]:
    """Patches of every frame of a call: attention stays inside a frame."""
    return [h * w for t, h, w in grids(call).tolist() for _ in range(t)]


def windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    """Attention windows where every layer attends to whole frames."""
    return [frames(call)] * len(tower(model).blocks)


packed = partial(
    Adapter,
    language_model="language_model",
    vision_tower="visual",
    vision_layers="blocks",
    vision_attention="attn",
    projector="visual.merger",
    placeholders={"image": "image_token_id", "video": "video_token_id"},
    images=images,
    tower_rows=unit_rows,
    projector_rows=unit_rows,
    project=project,
    windows=windows,
    unique=unique_packed,
)
"""An adapter of this kind; give it a name, a summary, the architectures, and what the family does otherwise."""
