"""Tiny LLaVA: CLIP tower with a CLS token, Llama or Mistral as language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from vtprune.testing.models.tiny import (
    IMAGE,
    Attention,
    Grid,
    Inputs,
    Side,
    Tiny,
    build,
    pad_rows,
    text_config,
    token_row,
)

LLAVA_SIZE, LLAVA_PATCH = 28, 7


@cache
def tiny_llava(
    attn: Attention = "sdpa",
    text: Literal["llama", "mistral"] = "llama",
    layers: int = 4,
    *,
    sliding_window: int | None = 4096,
    vision_layers: int = 3,
) -> Tiny:
    """LLaVA with 16 vision tokens per image. `sliding_window` concerns Mistral only, whose default is 4096."""
    window = {"sliding_window": sliding_window} if text == "mistral" else {}
    name = f"llava-{text}-window{sliding_window}-{attn}" if window else f"llava-{text}-{attn}"
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": LLAVA_SIZE,
            "patch_size": LLAVA_PATCH,
            "projection_dim": 32,
        },
        text_config={"model_type": text, **text_config(layers), **window},
        image_token_index=IMAGE,
        image_seq_length=(LLAVA_SIZE // LLAVA_PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return Tiny(name, build(LlavaForConditionalGeneration, config, attn), _llava_inputs)


def _llava_inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    if grids is not None:
        raise ValueError("grids were given, but every image of the tiny LLaVA has the same size; leave grids out")
    rows, pixels = [], []
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        rows.append(token_row([(LLAVA_SIZE // LLAVA_PATCH) ** 2] * count, text, generator, wrap=False))
        pixels.append(torch.randn(count, 3, LLAVA_SIZE, LLAVA_SIZE, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs
