"""Tiny Mllama: cross-attention layers read the vision tokens, which never enter the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration

from vtprune.testing.models.tiny import (
    IMAGE,
    VISION_START,
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

MLLAMA_SIZE, MLLAMA_PATCH, MLLAMA_TILES = 28, 7, 4


@cache
def tiny_mllama(attn: Attention = "sdpa", layers: int = 4) -> Tiny:
    """Mllama whose odd layers are cross-attention layers; the prompt has one placeholder per image."""
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "num_attention_heads": 4,
            "image_size": MLLAMA_SIZE,
            "patch_size": MLLAMA_PATCH,
            "max_num_tiles": MLLAMA_TILES,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        text_config={
            **text_config(layers),
            "bos_token_id": VISION_START,
            "cross_attention_layers": list(range(1, layers, 2)),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_index=IMAGE,
    )
    return Tiny(f"mllama-{attn}", build(MllamaForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    if grids is not None:
        raise ValueError("grids were given, but every image of the tiny Mllama is one tile; leave grids out")
    rows, most = [], max(images, default=0)
    pixels = torch.zeros(len(images), most, MLLAMA_TILES, 3, MLLAMA_SIZE, MLLAMA_SIZE)
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        rows.append(token_row([1] * count, text, generator, wrap=False))
        pixels[sample, :count, 0] = torch.randn(count, 3, MLLAMA_SIZE, MLLAMA_SIZE, generator=generator)
    inputs = pad_rows(rows, side)
    if most:
        shown = (torch.arange(most) < torch.tensor(images)[:, None]).long()
        tiles = torch.nn.functional.pad(shown[..., None], (0, MLLAMA_TILES - 1))
        inputs["pixel_values"], inputs["aspect_ratio_mask"] = pixels, tiles
        inputs["aspect_ratio_ids"] = shown
        inputs["cross_attention_mask"] = tiles[:, None].repeat(1, inputs["input_ids"].shape[1], 1, 1)
    return inputs
