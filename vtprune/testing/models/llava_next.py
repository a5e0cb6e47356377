"""Tiny LLaVA-NeXT: each image as a whole and cut into tiles, with a newline token after every row of patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Generator, Tensor
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from vtprune.testing.models.tiles import (
    PATCH,
    PINPOINTS,
    SIZES,
    TILE,
    Size,
    drawn_sizes,
    mixed_row,
    padded_tiles,
    split_sizes,
    tiled,
    vision_config,
)
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Side, Tiny, build, pad_rows, text_config


@cache
def tiny_llava_next(
    attn: Attention = "sdpa", text: Literal["llama", "mistral"] = "mistral", layers: int = 4, *, vision_layers: int = 3
) -> Tiny:
    """LLaVA-NeXT with tiles of 16 patches; an image has two or four tiles besides the one that shows it whole."""
    config = LlavaNextConfig(
        vision_config=vision_config("clip", vision_layers),
        text_config={"model_type": text, **text_config(layers)},
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
    )
    return Tiny(f"llava_next-{text}-{attn}", build(LlavaNextForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    rows, pixels = [], []
    used: list[Size] = []
    for sample, (count, given) in enumerate(zip(images, split_sizes(images, sizes), strict=True)):
        generator = torch.Generator().manual_seed(seed + sample)
        own = drawn_sizes(count, SIZES, given, generator)
        rows.append(mixed_row([tiled(size, PINPOINTS, TILE, TILE // PATCH)[1] for size in own], [], text, generator))
        pixels += drawn_tiles(own, generator)
        used += own
    inputs = pad_rows(rows, side)
    if used:
        inputs["pixel_values"], inputs["image_sizes"] = padded_tiles(pixels), torch.tensor(used)
    return inputs


def drawn_tiles(sizes: Sequence[Size], generator: Generator) -> list[Tensor]:
    """Pixels ``[tile, 3, height, width]`` of each image: the whole one first."""
    tiles = [1 + tiled(size, PINPOINTS, TILE, TILE // PATCH)[0] for size in sizes]
    return [torch.randn(count, 3, TILE, TILE, generator=generator) for count in tiles]
