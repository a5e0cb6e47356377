"""Tiny Qwen2.5-VL: window attention in the tower, 2x2 merger, M-RoPE."""

from __future__ import annotations

from functools import cache

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vtprune.testing.models.patches import Layout, whole_video
from vtprune.testing.models.tiny import (
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    Attention,
    Grid,
    Tiny,
    build,
    text_config,
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
    layout = Layout(QWEN_PATCH, QWEN_TEMPORAL, QWEN_MERGE, QWEN_GRIDS, whole_video)
    return Tiny(f"qwen2_5_vl-{attn}", build(Qwen2_5_VLForConditionalGeneration, config, attn), layout.make_inputs)
