"""What the tiny models with a Pixtral tower share: the tower, and images of several sizes in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vtprune.testing.models.prompts import MARKS, Size, choices, pad_images, placeholders, prompt_row
from vtprune.testing.models.tiny import Inputs, Side, pad_rows

SPAN = 8
"""Pixels along the edge of a token."""
SIZES: tuple[Size, ...] = ((32, 32), (16, 40), (48, 24), (24, 32))
BREAK, END = MARKS[:2]


def tower(layers: int, merge: int) -> dict[str, Any]:
    """Configuration of a tower. merge: patches along the edge of a token."""
    return {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": SPAN // merge,
    }


def grid(size: Size) -> tuple[int, int]:
    """Rows and columns of an image's tokens."""
    return size[0] // SPAN, size[1] // SPAN


def broken_rows(size: Size) -> list[int]:
    """An image's tokens: a mark after every row of the grid, another one after the last."""
    rows, columns = grid(size)
    return [*([*placeholders(columns), BREAK] * rows)[:-1], END]


def sized_inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
    *,
    tokens: Callable[[Size], Sequence[int]],
) -> Inputs:
    """Prompts and pixels ``[image, 3, height, width]``, padded; see ``Tiny`` for the arguments of `make_inputs`.

    sizes: (height, width) of each image in pixels; tokens: the ids that an image of such a size becomes.
    Raises ValueError if there are more or fewer sizes than images.
    """
    rows, pixels = [], []
    used: list[Size] = []
    for generator, own in choices(images, "sizes", SIZES, sizes, seed):
        rows.append(prompt_row([tokens(size) for size in own], text, generator))
        pixels += [torch.randn(3, height, width, generator=generator) for height, width in own]
        used += own
    inputs = pad_rows(rows, side)
    if used:
        inputs["pixel_values"] = pad_images([pixels])[0][0]
        inputs["image_sizes"] = torch.tensor(used)
    return inputs
