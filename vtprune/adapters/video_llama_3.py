"""VideoLLaMA3 (arXiv 2501.13106): packed patches, pooled behind the tower, MLP projector, 1-D RoPE.

Every image and video has a pooling factor of its own. Pooling is bilinear: at factors 1 and 2 a token is the mean of
its patches; `vision.output` has the pooled rows. A video whose processor dropped similar patches
(`video_compression_mask`) has fewer placeholders than features, and is refused when the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.adapters.qwen_like import frames, packed, rectangles
from vtprune.adapters.rows import one_row_each
from vtprune.core.adapter import VisionCall, VisionInput


def _merges(call: VisionCall) -> list[int]:
    return call.arguments[f"{call.modality}_merge_sizes"].tolist()


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    return rectangles(call, _merges(call))


def _tower_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    rows, start = [], 0
    for image, merge in zip(images, _merges(call), strict=True):
        count = image.tokens * merge**2
        rows.append(torch.arange(start, start + count).view(image.tokens, merge**2))
        start += count
    return rows


def _project(model: Any, features: Tensor) -> Tensor:
    return model.base_model.projector(features.squeeze(1))


def _windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    return [frames(call)] * len(model.base_model.vision_model.encoder.layers)


ADAPTER = packed(
    name="video_llama_3",
    summary="VideoLLaMA3",
    architectures=("VideoLlama3ForConditionalGeneration",),
    vision_tower="vision_model",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="projector",
    images=_images,
    tower_rows=_tower_rows,
    projector_rows=one_row_each,
    project=_project,
    windows=_windows,
    unique=None,
)
