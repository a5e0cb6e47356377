"""Video-LLaVA (arXiv 2311.10122): one CLIP tower for images, another of the same build for videos.

Frames keep their CLS token as a vision token, so that the tokens of a video form no grid. Patches cannot leave inside
the towers: among them would be the CLS token, whose attention may be wanted in a later layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtprune.adapters import clip_like
from vtprune.adapters.rows import one_row_each
from vtprune.core.adapter import VisionCall, VisionInput


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    if call.modality == "image":
        return clip_like.images(model, call)
    videos = clip_like.pixels("video", call.arguments)[1]
    h, w = clip_like.grid(model, videos)
    each = h * w + clip_like.cls_tokens(model)
    return [VisionInput(len(video) * each, None, video, number) for number, video in enumerate(videos)]


_images_in_tower = clip_like.in_tower(one_row_each)


def _tower_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    rows = _images_in_tower if call.modality == "image" else one_row_each
    return rows(model, call, images)


ADAPTER = clip_like.clip_like(
    name="video_llava",
    summary="Video-LLaVA",
    architectures=("VideoLlavaForConditionalGeneration",),
    placeholders={"image": "image_token_id", "video": "video_token_id"},
    vision_tower="image_tower",
    video_tower="video_tower",
    images=_images,
    tower_rows=_tower_rows,
    tower_depth=None,
    unique=None,
)
