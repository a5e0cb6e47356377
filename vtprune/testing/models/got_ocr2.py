"""Tiny GOT-OCR 2.0: SAM-like tower with windows, convolutional projector, Qwen2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration

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

GOT_SIZE, GOT_PATCH = 64, 4
TOKENS = (GOT_SIZE // GOT_PATCH // 4) ** 2


@cache
def tiny_got_ocr2(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """GOT-OCR 2.0 with 16 vision tokens per crop. Options of its inputs: `splits`, (rows, columns) of each image."""
    config = GotOcr2Config(
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": GOT_SIZE,
            "patch_size": GOT_PATCH,
            "window_size": 6,
            "global_attn_indexes": [vision_layers - 1],
            "mlp_dim": 48,
        },
        text_config={"model_type": "qwen2", **text_config(layers)},
        image_token_index=IMAGE,
        image_seq_length=TOKENS,
        tie_word_embeddings=False,
    )
    return Tiny(f"got_ocr2-{attn}", build(GotOcr2ForConditionalGeneration, config, attn), _inputs)


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
        pixels.append(torch.randn(sum(counts), 3, GOT_SIZE, GOT_SIZE, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs
