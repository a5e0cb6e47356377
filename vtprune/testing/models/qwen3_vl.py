"""Tiny Qwen3-VL, dense and with experts: DeepStack, interleaved M-RoPE, normed queries and keys."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import transformers

from vtprune.testing.models.patches import Layout, stamped_video
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

PATCH, TEMPORAL, MERGE = 4, 2, 2
GRIDS = ((1, 8, 8), (1, 4, 8), (1, 8, 12), (1, 6, 10))
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": [1]}


@cache
def tiny_qwen3_vl(
    attn: Attention = "sdpa",
    text: Literal["dense", "experts"] = "dense",
    layers: int = 4,
    *,
    vision_layers: int = 4,
    deepstack: tuple[int, ...] = (0, 1, 2),
) -> Tiny:
    """Qwen3-VL. `deepstack`: the vision layers whose features are added to the first decoder layers' outputs."""
    family = "Qwen3VL" if text == "dense" else "Qwen3VLMoe"
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
            "deepstack_visual_indexes": list(deepstack),
        },
        text_config={
            **text_config(layers),
            **({} if text == "dense" else EXPERTS),
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
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
    return Tiny(f"qwen3_vl-{text}-{attn}", model, layout.make_inputs)
