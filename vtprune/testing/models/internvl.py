"""Tiny InternVL: tower with a CLS token, pixel shuffle, Qwen2 or Llama as language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vtprune.testing.models.prompts import SPLITS, Split, choices, crops_of, placeholders, prompt_row
from vtprune.testing.models.tiny import (
    IMAGE,
    VISION_END,
    VISION_START,
    Attention,
    Inputs,
    Side,
    Tiny,
    build,
    pad_rows,
    text_config,
)

INTERNVL_SIZE, INTERNVL_PATCH = 32, 4
TOKENS = (INTERNVL_SIZE // INTERNVL_PATCH // 2) ** 2


@cache
def tiny_internvl(
    attn: Attention = "sdpa", text: Literal["qwen2", "llama"] = "qwen2", layers: int = 4, *, vision_layers: int = 3
) -> Tiny:
    """InternVL with 16 vision tokens per crop. Options of its inputs: `splits`, one (rows, columns) per image."""
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": [INTERNVL_SIZE, INTERNVL_SIZE],
            "patch_size": [INTERNVL_PATCH, INTERNVL_PATCH],
            "layer_scale_init_value": 1.0,
        },
        text_config={"model_type": text, **text_config(layers)},
        image_token_id=IMAGE,
        image_seq_length=TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return Tiny(f"internvl-{text}-{attn}", build(InternVLForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    splits: Sequence[Split] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    rows, pixels = [], []
    for generator, own in choices(images, "splits", SPLITS, splits, seed):
        counts = [crops_of(split) for split in own]
        marked = [[VISION_START, *placeholders(TOKENS * count), VISION_END] for count in counts]
        rows.append(prompt_row(marked, text, generator))
        pixels.append(torch.randn(sum(counts), 3, INTERNVL_SIZE, INTERNVL_SIZE, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs
