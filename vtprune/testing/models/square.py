"""Inputs of the families whose images all have one size and become equally many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vtprune.testing.models.tiny import Grid, Inputs, Side, pad_rows, token_row


def square_inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
    *,
    tokens: int,
    size: int,
    wrap: bool = False,
    starts_with_image: bool = False,
) -> Inputs:
    """Prompts and pixels ``[image, 3, size, size]``; see ``Tiny`` for the arguments of `make_inputs`.

    tokens: vision tokens of an image. wrap: whether each stands between two marker tokens. starts_with_image: whether
    the images come before all text.
    Raises ValueError if grids are given.
    """
    if grids is not None:
        raise ValueError("grids were given, but every image of this tiny model has the same size; leave grids out")
    rows, pixels = [], []
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        rows.append(
            images_first(tokens, count, text, generator)
            if starts_with_image
            else token_row([tokens] * count, text, generator, wrap=wrap)
        )
        pixels.append(torch.randn(count, 3, size, size, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs


def images_first(tokens: int, count: int, text: tuple[int, int], generator: torch.Generator) -> list[int]:
    """One row that begins with its images, one after the other, and ends with a run of text."""
    before = token_row([tokens] * count, (0, 0), generator, wrap=False)
    run = token_row([], (max(text[0], 1), max(text[1], 1)), generator, wrap=False)
    return before + run
