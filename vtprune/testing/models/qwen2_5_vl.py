"""Tiny Qwen2.5-VL: window attention in the tower, 2x2 merger, M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vtprune.testing.models.tiny import (
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
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
    vision_mask,
)

QWEN_PATCH, QWEN_TEMPORAL, QWEN_MERGE = 4, 2, 2
QWEN_GRIDS: tuple[Grid, ...] = ((1, 8, 8), (1, 4, 8), (1, 8, 12), (1, 6, 10))


@cache
def tiny_qwen2_5_vl(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """Qwen2.5-VL whose tower has windows of 2x2 merged tokens and full attention in its last block."""
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": vision_layers,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 48,
            "patch_size": QWEN_PATCH,
            "temporal_patch_size": QWEN_TEMPORAL,
            "spatial_merge_size": QWEN_MERGE,
            "window_size": 2 * QWEN_PATCH * QWEN_MERGE,
            "fullatt_block_indexes": [vision_layers - 1],
        },
        text_config={
            **text_config(layers),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    return Tiny(f"qwen2_5_vl-{attn}", build(Qwen2_5_VLForConditionalGeneration, config, attn), _qwen_inputs)


def _qwen_inputs(
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
        drawn = [QWEN_GRIDS[draw(0, len(QWEN_GRIDS) - 1, generator)] for _ in range(count)]
        own = drawn if grids is None else list(grids[len(used) : len(used) + count])
        rows.append(token_row([t * h * w // QWEN_MERGE**2 for t, h, w in own], text, generator, wrap=True))
        patches = sum(t * h * w for t, h, w in own)
        pixels.append(torch.randn(patches, 3 * QWEN_TEMPORAL * QWEN_PATCH**2, generator=generator))
        used += own
    inputs = pad_rows(rows, side)
    inputs["mm_token_type_ids"] = vision_mask(inputs).long()
    if used:
        inputs["pixel_values"] = torch.cat(pixels)
        inputs["image_grid_thw"] = torch.tensor(used)
    return inputs
