"""What families with pixel shuffle share: square crops of one size, of which factor x factor neighbouring patches
become one token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from vtprune.core.adapter import VisionInput


def square_crops(pixels: Iterable[Tensor], side: int) -> list[VisionInput]:
    """One rectangle per crop, ``side`` tokens high and wide.

    The call does not say which crops make up an image, so each counts as one of its own.
    """
    return [VisionInput(side * side, (1, side, side), crop, number) for number, crop in enumerate(pixels)]


def shuffled_rows(images: Sequence[VisionInput], factor: int, first: int = 0) -> list[Tensor]:
    """int64 ``[vision, unit]`` for each crop: the patches of its tokens, of both the upper ones first.

    factor: patches that a token spans in height and in width; first: rows of the sequence of one crop that stand before
    its patches (a CLS token).
    """
    rows, start = [], 0
    for image in images:
        _, height, width = image.grid or (1, 0, 0)
        patches = start + first + torch.arange(image.tokens * factor**2)
        sides = {"h": height, "w": width, "a": factor, "b": factor}
        rows.append(rearrange(patches, "(h a w b) -> (h w) (a b)", **sides))
        start += first + len(patches)
    return rows
