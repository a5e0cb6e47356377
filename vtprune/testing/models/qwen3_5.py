"""Tiny Qwen3.5, dense and with experts: gated delta nets with an attention layer every so often, interleaved M-RoPE."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import transformers

from vtprune.testing.models.patches import Layout, stamped_video
from vtprune.testing.models.qwen3_vl import GRIDS, MERGE, PATCH, TEMPORAL
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

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
LAYERS = ("linear_attention", "full_attention", "linear_attention", "full_attention")


@cache
def tiny_qwen3_5(
    attn: Attention = "sdpa",
    text: Literal["dense", "experts"] = "dense",
    *,
    layer_types: tuple[str, ...] = LAYERS,
    vision_layers: int = 2,
) -> Tiny:
    """Qwen3.5, with as many linear layers as attention layers (checkpoints have three times as many)."""
    family = "Qwen3_5" if text == "dense" else "Qwen3_5Moe"
    config = getattr(transformers, f"{family}Config")(
        vision_config={
            "depth": vision_layers,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 48,
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "spatial_merge_size": MERGE,
            "num_position_embeddings": 64,
        },
        text_config={
            **text_config(len(layer_types)),
            **({} if text == "dense" else EXPERTS),
            "head_dim": 16,
            "layer_types": list(layer_types),
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_conv_kernel_dim": 4,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    model: Any = build(getattr(transformers, f"{family}ForConditionalGeneration"), config, attn)
    layout = Layout(PATCH, TEMPORAL, MERGE, GRIDS, stamped_video)
    return Tiny(f"qwen3_5-{text}-{attn}", model, layout.make_inputs)
