"""Inputs of the families whose images are cut into square crops of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from vtprune.testing.models.prompts import SPLITS, Split, choices, crops_of, placeholders, prompt_row
from vtprune.testing.models.tiny import VISION_END, VISION_START, Inputs, Side, pad_rows


def crop_inputs(
    images: Sequence[int] = (1,),
    splits: Sequence[Split] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
    *,
    tokens: Callable[[Split], Sequence[int]],
    size: int,
) -> Inputs:
    """Prompts and pixels ``[crop, 3, size, size]``; see ``Tiny`` for the arguments of `make_inputs`.

    splits: rows and columns of each image's crops; tokens: the ids that an image of such a split becomes.
    Raises ValueError if there are more or fewer splits than images.
    """
    rows, pixels = [], []
    for generator, own in choices(images, "splits", SPLITS, splits, seed):
        rows.append(prompt_row([tokens(split) for split in own], text, generator))
        pixels.append(torch.randn(sum(map(crops_of, own)), 3, size, size, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs


def one_run(split: Split, each: int) -> list[int]:
    """An image's tokens: those of all its crops, ``each`` of a crop, one after the other between two marks."""
    return [VISION_START, *placeholders(each * crops_of(split)), VISION_END]
