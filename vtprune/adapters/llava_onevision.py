"""LLaVA-OneVision (arXiv 2408.03326): SigLIP tower without a CLS token, Qwen2 language model.

The only image of a sample is cut into tiles; several images are not, and have a newline token each. A video's frames
are halved after the projector, and one newline token ends the video.

Where the model resizes by anything but a half (images of many tiles, frames with an odd number of patches: 27 a side in
the released models), a token mixes patches in unequal parts. There is no map from tokens to patches then, and sites and
signals of the vision tower are refused when the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.adapters import clip_like, tiled
from vtprune.core.adapter import Modality, VisionCall, VisionInput
from vtprune.core.errors import UnsupportedModeError

STRIDE = 2


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    if call.modality == "image":
        return tiled.images(model, call)
    found = []
    for number, video in enumerate(clip_like.pixels("video", call.arguments)[1]):
        t, (h, w) = len(video), (-(-edge // STRIDE) for edge in clip_like.grid(model, video))
        found.append(VisionInput(t * h * w, (t, h, w), video, number))
        found.append(VisionInput(1, (1, 1, 1), video[-1:], number, row_ends=True))
    return found


def _patches(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    if call.modality == "image":
        # Tokens of images and of videos can stand in one prompt, and are then merged together: both have four rows.
        return [rows.expand(-1, STRIDE**2) for rows in tiled.patches(model, call, images)]
    videos = clip_like.pixels("video", call.arguments)[1]
    h, w = clip_like.grid(model, videos)
    if h % STRIDE or w % STRIDE:
        raise UnsupportedModeError(
            f"frames of {h}x{w} patches are resized to {-(-h // STRIDE)}x{-(-w // STRIDE)} tokens: each token mixes "
            f"several patches in unequal parts, and what the vision tower says of patches cannot be assigned to "
            f"tokens. Use a site or signal of the language model"
        )
    rows = clip_like.pooled(h, w, STRIDE, videos.shape[0] * videos.shape[1])
    newline = torch.full((1, STRIDE**2), -1)
    return [part for video in rows.chunk(len(videos)) for part in (video, newline)]


def _unique(
    model: nn.Module, modality: Modality, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], list[int]] | None:
    """How an image is cut depends on the other images of its sample: only samples of one image share theirs."""
    per_sample = arguments.get("batch_num_images")
    if modality == "video" or per_sample is None:
        return clip_like.unique(model, modality, arguments)
    found = None if bool((per_sample > 1).any()) else clip_like.unique(model, modality, arguments)
    if found is None:
        return None
    chosen, index = found
    return {**chosen, "batch_num_images": torch.ones(max(index) + 1, dtype=torch.int64)}, index


ADAPTER = clip_like.clip_like(
    _patches,
    name="llava_onevision",
    summary="LLaVA-OneVision",
    architectures=("LlavaOnevisionForConditionalGeneration",),
    placeholders={"image": "image_token_id", "video": "video_token_id"},
    images=_images,
    windows=tiled.windows,
    unique=_unique,
)
