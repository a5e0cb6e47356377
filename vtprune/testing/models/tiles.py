"""What the tiny models of the LLaVA family share: towers, images cut into tiles, prompts with images and videos."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from transformers.image_processing_utils import select_best_resolution

from vtprune.testing.models.tiny import IMAGE, VIDEO, draw, token_row

Size = tuple[int, int]
"""Height and width in pixels."""

TILE, PATCH, FRAMES = 28, 7, 2
PINPOINTS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
SIZES: tuple[Size, ...] = ((56, 56), (28, 56), (56, 20), (40, 56), (30, 28))


def vision_config(kind: Literal["clip", "siglip"], layers: int, size: int = TILE, patch: int = PATCH) -> dict[str, Any]:
    """Configuration of a tower: CLIP has a CLS token, SigLIP has none."""
    own = {"projection_dim": 32} if kind == "clip" else {"vision_use_head": False}
    return {
        "model_type": f"{kind}_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": size,
        "patch_size": patch,
        **own,
    }


def tiled(size: Size, pinpoints: Sequence[Sequence[int]], tile: int, side: int, most: int | None = None) -> Size:
    """How many tiles an image is cut into, and how many tokens it becomes: the whole image as one tile, and the rows of
    patches that are left when the padding is cut off, each with a newline token.

    tile: pixels of a tile's edge; side: patches of a tile's edge; most: tiles above which the patches are resized.
    """
    height, width = size
    best = select_best_resolution(size, [list(point) for point in pinpoints])
    rows, columns = (edge // tile * side for edge in best)
    scale = min(rows / height, columns / width)
    rows -= (rows - int(round(height * scale, 7))) // 2 * 2
    columns -= (columns - int(round(width * scale, 7))) // 2 * 2
    ratio = 0.0 if most is None else (rows * columns / (most * side**2)) ** 0.5
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return best[0] // tile * (best[1] // tile), side**2 + rows * (columns + 1)


def drawn_sizes(count: int, choices: Sequence[Size], given: Sequence[Size] | None, generator: Generator) -> list[Size]:
    """Sizes of a sample's images: those given, or drawn ones. Draws even where sizes are given, so that text and pixels
    do not depend on that."""
    drawn = [choices[draw(0, len(choices) - 1, generator)] for _ in range(count)]
    return drawn if given is None else list(given)


def mixed_row(images: Sequence[int], videos: Sequence[int], text: tuple[int, int], generator: Generator) -> list[int]:
    """Token ids of one sample: a run of text, then images and videos in turn, each followed by another run.

    images, videos: how many tokens each has.
    """
    row = token_row([], text, generator, wrap=False)
    for image, video in zip_longest(images, videos, fillvalue=0):
        for token, count in ((IMAGE, image), (VIDEO, video)):
            if count:
                row += [token] * count + token_row([], text, generator, wrap=False)
    return row


def counts(images: Sequence[int], videos: Sequence[int] | None) -> list[tuple[int, int]]:
    """How many images and videos each sample holds; ValueError where the two disagree on the samples."""
    videos = [0] * len(images) if videos is None else videos
    if len(videos) != len(images):
        raise ValueError(f"videos names {len(videos)} samples and images {len(images)}; name every sample in both")
    return list(zip(images, videos, strict=True))


def split_sizes(images: Sequence[int], sizes: Sequence[Size] | None) -> list[Sequence[Size] | None]:
    """The given sizes sample by sample; ValueError if there is not one for each image."""
    if sizes is None:
        return [None] * len(images)
    if len(sizes) != sum(images):
        raise ValueError(
            f"got {len(sizes)} sizes for {sum(images)} images (images={tuple(images)}); give one size per image"
        )
    ends = torch.tensor(images).cumsum(0).tolist()
    return [sizes[end - count : end] for end, count in zip(ends, images, strict=True)]


def padded_tiles(images: Sequence[Tensor]) -> Tensor:
    """Tiles ``[tile, channel, height, width]`` of each image, stacked and filled up with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(images), batch_first=True)
