"""Tiny LFM2-VL: SigLIP2 tower for images of any shape, 2x2 pixel unshuffle, convolutions among the attention layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration

from vtprune.testing.models.tiny import (
    IMAGE,
    Attention,
    Grid,
    Inputs,
    Side,
    Tiny,
    build,
    draw,
    pad_rows,
    text_config,
    token_row,
    weigh_norms,
)

LFM2_PATCH, LFM2_MERGE = 4, 2
LFM2_GRIDS: tuple[Grid, ...] = ((1, 8, 8), (1, 4, 8), (1, 8, 6), (1, 6, 10))
LFM2_LAYERS = ("conv", "full_attention", "full_attention", "conv", "full_attention")


@cache
def tiny_lfm2_vl(attn: Attention = "sdpa", layer_types: tuple[str, ...] = LFM2_LAYERS) -> Tiny:
    """LFM2-VL; layer_types: "conv" or "full_attention" for each decoder layer."""
    config = Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "patch_size": LFM2_PATCH,
            "num_patches": 64,
            "vision_use_head": False,
        },
        text_config={
            **text_config(len(layer_types)),
            "model_type": "lfm2",
            "layer_types": list(layer_types),
            "block_auto_adjust_ff_dim": False,
        },
        image_token_id=IMAGE,
        downsample_factor=LFM2_MERGE,
        projector_hidden_size=48,
        tie_word_embeddings=False,
    )
    model = build(Lfm2VlForConditionalGeneration, config, attn)
    weigh_norms(model, "q_layernorm", 2.0)
    return Tiny(f"lfm2_vl-{attn}", model, _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    if grids is not None and len(grids) != sum(images):
        raise ValueError(
            f"got {len(grids)} grids for {sum(images)} images (images={tuple(images)}); give one grid per image"
        )
    rows, pixels = [], []
    used: list[Grid] = []
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        drawn = [LFM2_GRIDS[draw(0, len(LFM2_GRIDS) - 1, generator)] for _ in range(count)]
        own = drawn if grids is None else list(grids[len(used) : len(used) + count])
        rows.append(token_row([t * h * w // LFM2_MERGE**2 for t, h, w in own], text, generator, wrap=False))
        pixels += [torch.randn(h * w, 3 * LFM2_PATCH**2, generator=generator) for _, h, w in own]
        used += own
    inputs = pad_rows(rows, side)
    if used:
        pad = torch.nn.utils.rnn.pad_sequence
        inputs["pixel_values"] = pad(pixels, batch_first=True)
        inputs["pixel_attention_mask"] = pad(
            [torch.ones(len(patches), dtype=torch.long) for patches in pixels], batch_first=True
        )
        inputs["spatial_shapes"] = torch.tensor([(h, w) for _, h, w in used])
    return inputs
