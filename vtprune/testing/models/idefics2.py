"""Tiny Idefics2: images of different sizes in one padded batch, a perceiver with four latents, Mistral."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from vtprune.testing.models.prompts import MARKS, Size, choices, pad_images, placeholders, prompt_row
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Side, Tiny, build, pad_rows, text_config

IDEFICS2_SIZE, IDEFICS2_PATCH, IDEFICS2_LATENTS = 32, 4, 12
IDEFICS2_SIZES: tuple[Size, ...] = ((32, 32), (16, 32), (28, 20), (24, 32))
FAKE = MARKS[0]


@cache
def tiny_idefics2(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """Idefics2 with 12 vision tokens per image. Options of its inputs: `sizes`, (height, width) of each image."""
    config = Idefics2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": IDEFICS2_SIZE,
            "patch_size": IDEFICS2_PATCH,
        },
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": IDEFICS2_LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        text_config={"model_type": "mistral", **text_config(layers)},
        image_token_id=IMAGE,
    )
    return Tiny(f"idefics2-{attn}", build(Idefics2ForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    rows, pixels = [], []
    for generator, own in choices(images, "sizes", IDEFICS2_SIZES, sizes, seed):
        rows.append(prompt_row([[FAKE, *placeholders(IDEFICS2_LATENTS), FAKE]] * len(own), text, generator))
        pixels.append([torch.randn(3, height, width, generator=generator) for height, width in own])
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"], inputs["pixel_attention_mask"] = pad_images(pixels)
    return inputs
