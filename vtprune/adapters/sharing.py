"""Which images of a call are the same, so that the vision tower needs to see each of them only once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Modality

Unique = Callable[[nn.Module, Modality, Mapping[str, Any]], tuple[dict[str, Any], list[int]] | None]


def unique_images(*names: str) -> Unique:
    """For families whose arguments ``names`` are tensors ``[image, ...]``, the first of them the pixels. Images are the
    same if all of these are."""

    def unique(model: nn.Module, modality: Modality, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        given = {name: arguments[name] for name in names if isinstance(arguments.get(name), Tensor)}
        pixels, *beside = given.values()
        shapes = [[pixels.shape[1:], *row] for row in zip(*(tensor.tolist() for tensor in beside), strict=True)]
        first, index = _first_and_index(list(pixels), shapes)
        return {**arguments, **{name: tensor[first] for name, tensor in given.items()}}, index

    return unique


def unique_packed(
    model: nn.Module, modality: Modality, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], list[int]]:
    """For families that pack patches ``[(image t h w), dim]`` beside a table of grids ``[image, 3]`` (Qwen-VL)."""
    pixels = "pixel_values" if modality == "image" else "pixel_values_videos"
    grids = f"{modality}_grid_thw"
    table: Tensor = arguments[grids]
    images = arguments[pixels].split(table.prod(-1).tolist())
    first, index = _first_and_index(images, table.tolist())
    return {**arguments, pixels: torch.cat([images[image] for image in first]), grids: table[first]}, index


def _first_and_index(images: Sequence[Tensor], shapes: Sequence[Any] = ()) -> tuple[list[int], list[int]]:
    """Where each distinct image comes first, and for every image the number of its distinct one."""
    numbers: dict[tuple[bytes, str], int] = {}
    first: list[int] = []
    index = []
    for place, image in enumerate(images):
        content = image.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()
        shape = str(shapes[place]) if shapes else str(image.shape)
        key = (hashlib.sha256(content).digest(), shape)
        if key not in numbers:
            numbers[key] = len(first)
            first.append(place)
        index.append(numbers[key])
    return first, index
