"""LLaVA-NeXT-Video: LLaVA-NeXT, and videos whose frames are pooled (2x2 by default) before the projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters import tiled
from vtprune.adapters.clip_like import clip_like, grid, pixels, pooled
from vtprune.adapters.rows import one_row_each
from vtprune.core.adapter import VisionCall, VisionInput


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    if call.modality == "image":
        return tiled.images(model, call)
    stride = model.config.spatial_pool_stride
    found = []
    for number, video in enumerate(pixels("video", call.arguments)[1]):
        t, (h, w) = len(video), (edge // stride for edge in grid(model, video))
        found.append(VisionInput(t * h * w, (t, h, w), video, number))
    return found


def _patches(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    if call.modality == "image":
        return tiled.patches(model, call, images)
    videos = pixels("video", call.arguments)[1]
    frames = videos.shape[0] * videos.shape[1]
    rows = pooled(*grid(model, videos), model.config.spatial_pool_stride, frames)
    return list(rows.split([image.tokens for image in images]))


def _projected(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """Videos are pooled before the projector, so that a row of its input is a token."""
    return tiled.patches(model, call, images) if call.modality == "image" else one_row_each(model, call, images)


ADAPTER = clip_like(
    _patches,
    _projected,
    name="llava_next_video",
    summary="LLaVA-NeXT-Video",
    architectures=("LlavaNextVideoForConditionalGeneration",),
    placeholders={"image": "image_token_id", "video": "video_token_id"},
    images=_images,
    windows=tiled.windows,
)
