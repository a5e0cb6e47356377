"""What a recognised model's ``get_image_features`` made, without a map written for its family."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from vtprune.core.adapter import Modality, VisionCall, VisionInput
from vtprune.core.errors import UnsupportedModeError

PLAIN = frozenset(
    [
        "pixel_values",
        "pixel_values_images",
        "pixel_values_videos",
        "image_grid_thw",
        "video_grid_thw",
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "interpolate_pos_encoding",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
    ]
)
"""Arguments of ``get_image_features`` that leave no doubt which pixels are an image's own."""


def features_method(modality: Modality) -> str:
    """The base model's method that encodes a modality."""
    return f"get_{modality}_features"


def unread(base: nn.Module, modality: Modality) -> list[str]:
    """Arguments of a model's encoding method whose bearing on the pixels is unknown: masks, sizes, crops."""
    parameters = signature(getattr(base, features_method(modality))).parameters.values()
    return [p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD and p.name not in PLAIN]


def images(model: nn.Module, call: VisionCall) -> list[VisionInput]:
    """One input per tensor of features, in their order, without a grid.

    Raises UnsupportedModeError where several images come back as one tensor: where one ends is unknown.
    """
    own = _own_pixels(call)
    count = None if own is None else len(own)
    if len(call.features) == 1 and count is not None and count > 1:
        raise UnsupportedModeError(
            f"{features_method(call.modality)} of {type(model).__name__} returned the features of {count} "
            f"{call.modality}s as one tensor {list(call.features[0].shape)}, and which of them ends where cannot be "
            f"told from structure; pass one {call.modality} per call, or write an adapter (docs/adapters.md)"
        )
    if count != len(call.features):
        own = None
    return [
        VisionInput(len(features), None, None if own is None else own[number], number)
        for number, features in enumerate(call.features)
    ]


def _own_pixels(call: VisionCall) -> Sequence[Tensor] | None:
    """The pixels of each image of a call, or None where it is uncertain which those are."""
    given = {name: value for name, value in call.arguments.items() if isinstance(value, Tensor | list | tuple)}
    names = [name for name in given if name.startswith("pixel_values")]
    if len(names) != 1 or not given.keys() <= PLAIN:
        return None
    pixels: Any = given.pop(names[0])
    grid: Any = given.pop(f"{call.modality}_grid_thw", None)
    if grid is None:
        return list(pixels) if not isinstance(pixels, Tensor) or pixels.dim() >= 4 else None
    sizes = grid.prod(-1).tolist()
    return pixels.split(sizes) if isinstance(pixels, Tensor) and sum(sizes) == len(pixels) else None
