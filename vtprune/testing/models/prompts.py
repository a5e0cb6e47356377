"""Prompts and pixels of families whose images are split into crops, or have different sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from vtprune.testing.models.tiny import IMAGE, TEXT_IDS, draw

Split = tuple[int, int]
Size = tuple[int, int]
Choice = TypeVar("Choice")

MARKS = (119, 120, 121, 122, 123)
"""Ids of the marks that processors put between crops; the text of these prompts does without them."""
SPLITS: tuple[Split, ...] = ((1, 1), (1, 2), (2, 1))
"""Rows and columns of crops that an image is cut into. (1, 1) is not cut; all others bring the whole image as well."""


def crops_of(split: Split) -> int:
    """How many crops an image makes: those of its grid and, if it was cut, the whole image."""
    rows, columns = split
    return 1 if rows * columns == 1 else rows * columns + 1


def choices(
    images: Sequence[int], name: str, table: Sequence[Choice], given: Sequence[Choice] | None, seed: int
) -> Iterator[tuple[torch.Generator, list[Choice]]]:
    """For each sample its generator and what its images are like: drawn from a table, unless given.

    images: images of each sample; name: of the option, for the error; given: one entry per image of the batch.
    Raises ValueError if there are more or fewer of them than images.
    """
    if given is not None and len(given) != sum(images):
        raise ValueError(
            f"got {len(given)} {name} for {sum(images)} images (images={tuple(images)}); give one of the {name} per "
            f"image"
        )
    used = 0
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        drawn = [table[draw(0, len(table) - 1, generator)] for _ in range(count)]
        yield generator, drawn if given is None else list(given[used : used + count])
        used += count


def prompt_row(images: Sequence[Sequence[int]], text: tuple[int, int], generator: torch.Generator) -> list[int]:
    """Token ids of one sample: a run of text, then the tokens of each image followed by another run."""

    def run() -> list[int]:
        return torch.randint(TEXT_IDS[0], MARKS[0], (draw(*text, generator),), generator=generator).tolist()

    row = run()
    for image in images:
        row += [*image, *run()]
    return row


def placeholders(count: int) -> list[int]:
    """A run of image placeholders."""
    return [IMAGE] * count


def pad_images(samples: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Images ``[channel, height, width]`` of each sample, padded with zeros to the same number and the same size.

    Returns float ``[batch, image, channel, height, width]`` and int64 ``[batch, image, height, width]``, 1 on pixels.
    """
    every = [image for images in samples for image in images]
    height, width = max(image.shape[1] for image in every), max(image.shape[2] for image in every)
    most = max(map(len, samples))
    pixels = torch.zeros(len(samples), most, 3, height, width)
    mask = torch.zeros(len(samples), most, height, width, dtype=torch.long)
    for sample, images in enumerate(samples):
        for index, image in enumerate(images):
            pixels[sample, index, :, : image.shape[1], : image.shape[2]] = image
            mask[sample, index, : image.shape[1], : image.shape[2]] = 1
    return pixels, mask
