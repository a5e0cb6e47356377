"""Tiny LightOnOCR: Pixtral tower that packs all images into one sequence, 2x2 merger, Qwen3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

from vtprune.testing.models.prompts import Size, choices, pad_images, placeholders, prompt_row
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Side, Tiny, build, pad_rows, text_config

LIGHTON_PATCH, LIGHTON_MERGE = 4, 2
LIGHTON_SIZES: tuple[Size, ...] = ((32, 32), (16, 40), (48, 24), (24, 32))


@cache
def tiny_lighton_ocr(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """LightOnOCR with one vision token for 8 x 8 pixels. Options of its inputs: `sizes`, (height, width) per image."""
    config = LightOnOcrConfig(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": LIGHTON_PATCH,
        },
        text_config={"model_type": "qwen3", "head_dim": 16, **text_config(layers)},
        image_token_id=IMAGE,
        spatial_merge_size=LIGHTON_MERGE,
        tie_word_embeddings=False,
    )
    return Tiny(f"lighton_ocr-{attn}", build(LightOnOcrForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    rows, pixels = [], []
    used: list[Size] = []
    span = LIGHTON_PATCH * LIGHTON_MERGE
    for generator, own in choices(images, "sizes", LIGHTON_SIZES, sizes, seed):
        counts = [(height // span) * (width // span) for height, width in own]
        rows.append(prompt_row([placeholders(count) for count in counts], text, generator))
        pixels += [torch.randn(3, height, width, generator=generator) for height, width in own]
        used += own
    inputs = pad_rows(rows, side)
    if used:
        inputs["pixel_values"] = pad_images([pixels])[0][0]
        inputs["image_sizes"] = torch.tensor(used)
    return inputs
