"""Tiny GLM-4.1V, GLM-4.5V (experts), GLM-4.6V and GLM-OCR: convolution and merger after the tower; M-RoPE on half of
each head.

A video's frames are images inside a pair of video tokens, each followed by its timestamp. A batch can hold images or
videos, not both: the model fills the placeholders of both from either.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import transformers

from vtprune.testing.models.patches import Layout, Row, wrapped
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

PATCH, TEMPORAL, MERGE = 4, 2, 2
GRIDS = ((1, 8, 8), (1, 4, 8), (1, 8, 12), (1, 6, 10))
VIDEO_START, VIDEO_END = 122, 123
MODELS = {"4.1": "Glm4v", "4.5": "Glm4vMoe", "4.6": "Glm46V", "ocr": "GlmOcr"}
EXPERTS = {
    "head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}


def _video(grid: Grid) -> Row:
    t, h, w = grid
    frames = [item for frame in range(t) for item in [*wrapped(IMAGE, 2, h * w), (20 + frame, 0)]]
    return [(VIDEO_START, 0), *frames, (VIDEO_END, 0)]


@cache
def tiny_glm4v(
    attn: Attention = "sdpa",
    version: Literal["4.1", "4.5", "4.6", "ocr"] = "4.1",
    layers: int = 4,
    *,
    vision_layers: int = 2,
) -> Tiny:
    """GLM-4.xV whose learned positions form an 8 by 8 grid, resampled to each image's."""
    vision: dict[str, Any] = {
        "depth": vision_layers,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "num_heads": 4,
        "intermediate_size": 48,
        "image_size": 8 * PATCH,
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "spatial_merge_size": MERGE,
    }
    text: dict[str, Any] = {
        **text_config(layers),
        **(EXPERTS if version == "4.5" else {}),
        **({"head_dim": 16} if version == "ocr" else {}),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 2],
        },
    }
    if version == "4.6":
        vision["model_type"], text["model_type"] = "glm4v_vision", "glm4v_text"
    config = getattr(transformers, f"{MODELS[version]}Config")(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=VISION_START,
        image_end_token_id=VISION_END,
        video_start_token_id=VIDEO_START,
        video_end_token_id=VIDEO_END,
    )
    model: Any = build(getattr(transformers, f"{MODELS[version]}ForConditionalGeneration"), config, attn)
    layout = Layout(PATCH, TEMPORAL, MERGE, GRIDS, _video, text_ids=(1, VIDEO_START))
    return Tiny(f"glm{version}v-{attn}", model, layout.make_inputs)
