"""Tiny Mistral3 and Pixtral: a tower that packs all images into one sequence, Mistral; Mistral3 merges 2x2 patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from vtprune.testing.models.prompts import MARKS, Size, choices, pad_images, placeholders, prompt_row
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Side, Tiny, build, pad_rows, text_config

MISTRAL3_PATCH, MISTRAL3_MERGE = 4, 2
MISTRAL3_SIZES: tuple[Size, ...] = ((32, 32), (16, 40), (48, 24), (24, 32))
BREAK, END = MARKS[:2]


@cache
def tiny_mistral3(
    attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3, sliding_window: int | None = None
) -> Tiny:
    """Mistral3 with one vision token for 8 x 8 pixels. Options of its inputs: `sizes`, (height, width) per image."""
    config = Mistral3Config(
        vision_config=_tower(vision_layers),
        text_config={"model_type": "mistral", "head_dim": 16, "sliding_window": sliding_window, **text_config(layers)},
        image_token_index=IMAGE,
        spatial_merge_size=MISTRAL3_MERGE,
        tie_word_embeddings=False,
    )
    return Tiny(f"mistral3-{attn}", build(Mistral3ForConditionalGeneration, config, attn), _inputs)


@cache
def tiny_pixtral(
    attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3, sliding_window: int | None = None
) -> Tiny:
    """Pixtral with one vision token for 8 x 8 pixels. Options of its inputs: `sizes`, (height, width) per image."""
    config = LlavaConfig(
        vision_config={**_tower(vision_layers), "patch_size": MISTRAL3_PATCH * MISTRAL3_MERGE},
        text_config={"model_type": "mistral", "head_dim": 16, "sliding_window": sliding_window, **text_config(layers)},
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return Tiny(f"pixtral-{attn}", build(LlavaForConditionalGeneration, config, attn), _inputs)


def _tower(layers: int) -> dict[str, object]:
    return {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": MISTRAL3_PATCH,
    }


def _tokens(size: Size) -> list[int]:
    """An image's tokens: a mark after every row of the grid, another one after the last."""
    rows, columns = (side // MISTRAL3_PATCH // MISTRAL3_MERGE for side in size)
    return [*([*placeholders(columns), BREAK] * rows)[:-1], END]


def _inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    rows, pixels = [], []
    used: list[Size] = []
    for generator, own in choices(images, "sizes", MISTRAL3_SIZES, sizes, seed):
        rows.append(prompt_row([_tokens(size) for size in own], text, generator))
        pixels += [torch.randn(3, height, width, generator=generator) for height, width in own]
        used += own
    inputs = pad_rows(rows, side)
    if used:
        inputs["pixel_values"] = pad_images([pixels])[0][0]
        inputs["image_sizes"] = torch.tensor(used)
    return inputs
