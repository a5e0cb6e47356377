"""Tiny Idefics3 and SmolVLM: crops padded per sample, pixel shuffle, Llama."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from vtprune.testing.models.prompts import (
    MARKS,
    SPLITS,
    Split,
    choices,
    crops_of,
    pad_images,
    placeholders,
    prompt_row,
)
from vtprune.testing.models.tiny import IMAGE, PAD, Attention, Inputs, Side, Tiny, build, pad_rows, text_config

IDEFICS3_SIZE, IDEFICS3_PATCH, IDEFICS3_SCALE = 32, 4, 2
TOKENS = (IDEFICS3_SIZE // IDEFICS3_PATCH // IDEFICS3_SCALE) ** 2
FAKE, WHOLE, PLACE, LINE = MARKS[:4]
CLASSES = {
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
}


@cache
def tiny_idefics3(
    attn: Attention = "sdpa",
    family: Literal["idefics3", "smolvlm"] = "idefics3",
    layers: int = 4,
    *,
    vision_layers: int = 3,
) -> Tiny:
    """Idefics3 or SmolVLM with 16 vision tokens per crop. Options of its inputs: `splits`, (rows, columns) of each
    image."""
    config_class, model_class = CLASSES[family]
    config = config_class(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": IDEFICS3_SIZE,
            "patch_size": IDEFICS3_PATCH,
        },
        text_config={"model_type": "llama", **text_config(layers)},
        image_token_id=IMAGE,
        scale_factor=IDEFICS3_SCALE,
        pad_token_id=PAD,
    )
    return Tiny(f"{family}-{attn}", build(model_class, config, attn), _inputs)


def _tokens(split: Split) -> list[int]:
    """An image's tokens: its crops row by row, each behind a mark of its place, then the whole image."""
    rows, columns = split
    tokens: list[int] = []
    if crops_of(split) > 1:
        for _ in range(rows):
            tokens += [FAKE, PLACE, *placeholders(TOKENS)] * columns + [LINE]
        tokens.append(LINE)
    return [*tokens, FAKE, WHOLE, *placeholders(TOKENS), FAKE]


def _inputs(
    images: Sequence[int] = (1,),
    splits: Sequence[Split] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    rows, pixels = [], []
    for generator, own in choices(images, "splits", SPLITS, splits, seed):
        rows.append(prompt_row([_tokens(split) for split in own], text, generator))
        crops = sum(map(crops_of, own))
        pixels.append(list(torch.randn(crops, 3, IDEFICS3_SIZE, IDEFICS3_SIZE, generator=generator)))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"], inputs["pixel_attention_mask"] = pad_images(pixels)
    return inputs
