"""Tiny Aria: crops of two sizes, a cross-attention projector, mixture-of-experts language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import AriaConfig, AriaForConditionalGeneration

from vtprune.testing.models.prompts import SPLITS, Split, choices, crops_of, pad_images, placeholders, prompt_row
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Side, Tiny, build, draw, pad_rows, text_config

ARIA_PATCH = 4
ARIA_SIZES = {24: 6, 32: 10}
"""Side of a crop in pixels, and how many vision tokens it makes."""


@cache
def tiny_aria(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3, size: int = 32) -> Tiny:
    """Aria with 10 vision tokens per crop, or 6 with `size=24`. Crops are padded to squares, as wide images are.

    Options of its inputs: `splits`, (rows, columns) of each image.
    """
    config = AriaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": max(ARIA_SIZES),
            "patch_size": ARIA_PATCH,
        },
        text_config={
            "model_type": "aria_text",
            **text_config(layers),
            "moe_num_experts": 4,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
        },
        projector_patch_to_query_dict={(side // ARIA_PATCH) ** 2: tokens for side, tokens in ARIA_SIZES.items()},
        image_token_index=IMAGE,
    )
    model = build(AriaForConditionalGeneration, config, attn)

    def make_inputs(
        images: Sequence[int] = (1,),
        splits: Sequence[Split] | None = None,
        seed: int = 0,
        side: Side = "left",
        text: tuple[int, int] = (2, 6),
    ) -> Inputs:
        rows, pixels = [], []
        for generator, own in choices(images, "splits", SPLITS, splits, seed):
            counts = [crops_of(split) for split in own]
            rows.append(prompt_row([placeholders(ARIA_SIZES[size] * count) for count in counts], text, generator))
            for count in counts:
                width = size - ARIA_PATCH * draw(0, 2, generator)
                pixels += list(torch.randn(count, 3, size, width, generator=generator))
        inputs = pad_rows(rows, side)
        if sum(images):
            square = torch.zeros(3, size, size)
            padded, mask = pad_images([[square, *pixels]])
            inputs["pixel_values"], inputs["pixel_mask"] = padded[0, 1:], mask[0, 1:]
        return inputs

    return Tiny(f"aria-{size}-{attn}", model, make_inputs)
