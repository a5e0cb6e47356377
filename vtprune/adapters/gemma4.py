"""Gemma 4: images of any shape, pooled inside the tower; per-layer inputs and shared keys and values in the decoder.

The tower reads padded sequences of patches with their (x, y) places and pools them by place, so that the projector sees
one row per language-model token. A video is a sequence of frames of one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.adapters.rows import one_row_each
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, Modality, VisionCall, VisionInput


def _frames(call: VisionCall) -> tuple[Tensor, Tensor, list[int]]:
    """Patches ``[frame, patch, dim]``, places int64 ``[frame, patch, 2]`` and the frames of each image or video."""
    if call.modality == "image":
        patches, places = call.arguments["pixel_values"], call.arguments["image_position_ids"]
        return patches, places, [1] * len(patches)
    patches, places = call.arguments["pixel_values_videos"], call.arguments["video_position_ids"]
    if patches.dim() == 4:  # transformers up to 5.17: [video, frame, patch, dim]
        return patches.flatten(0, 1), places.flatten(0, 1), [patches.shape[1]] * len(patches)
    return patches, places, call.arguments["num_frames_per_video"].tolist()


def _pool(model: Any) -> int:
    return model.config.vision_config.pooling_kernel_size


def _shape(places: Tensor, pool: int) -> tuple[int, int]:
    """Height and width of a frame in tokens; places: int64 ``[patch, 2]``, (-1, -1) where there is no patch."""
    w, h = ((places.amax(0) + 1) // pool).tolist()
    return h, w


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    patches, places, lengths = _frames(call)
    found, start = [], 0
    for number, frames in enumerate(lengths):
        h, w = _shape(places[start], _pool(model))
        found.append(VisionInput(frames * h * w, (frames, h, w), patches[start : start + frames], number))
        start += frames
    return found


def _tower_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """The patches of each token: those whose places fall into its window."""
    _, places, lengths = _frames(call)
    pool, padded = _pool(model), places.shape[1]
    rows = []
    for frame, patches in enumerate(places.cpu()):
        _, w = _shape(patches, pool)
        window = torch.where(patches[:, 0] < 0, -1, patches[:, 0] // pool + w * (patches[:, 1] // pool))
        order = torch.argsort(window, stable=True)[int((window < 0).sum()) :]
        rows.append(frame * padded + order.view(-1, pool**2))
    return [torch.cat(rows[sum(lengths[:n]) : sum(lengths[: n + 1])]) for n in range(len(lengths))]


def _project(model: Any, features: Tensor) -> Tensor:
    return model.base_model.embed_vision(features.squeeze(1))


def _unique(model: Any, modality: Modality, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
    """Frames of one video are not told from those of the next, so videos are not compared."""
    if modality == "video":
        return None
    return unique_images("pixel_values", "image_position_ids")(model, modality, arguments)


ADAPTER = Adapter(
    name="gemma4",
    summary="Gemma 4 with vision",
    architectures=("Gemma4ForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="embed_vision",
    placeholders={"image": "image_token_id", "video": "video_token_id"},
    images=_images,
    tower_rows=_tower_rows,
    projector_rows=one_row_each,
    project=_project,
    unique=_unique,
)
