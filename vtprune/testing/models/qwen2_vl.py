"""Tiny Qwen2-VL: full attention in the tower, 2x2 merger, M-RoPE."""

from __future__ import annotations

from functools import cache

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vtprune.testing.models.patches import Layout, whole_video
from vtprune.testing.models.qwen2_5_vl import QWEN_GRIDS, QWEN_MERGE, QWEN_PATCH, QWEN_TEMPORAL
from vtprune.testing.models.tiny import (
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    Attention,
    Tiny,
    build,
    text_config,
)


@cache
def tiny_qwen2_vl(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 2) -> Tiny:
    """Qwen2-VL, whose tower attends to all patches of a frame."""
    config = Qwen2VLConfig(
        vision_config={
            "depth": vision_layers,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 4,
            "mlp_ratio": 2,
            "patch_size": QWEN_PATCH,
            "temporal_patch_size": QWEN_TEMPORAL,
            "spatial_merge_size": QWEN_MERGE,
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
    return Tiny(f"qwen2_vl-{attn}", build(Qwen2VLForConditionalGeneration, config, attn), layout.make_inputs)
