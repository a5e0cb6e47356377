"""Tiny PaddleOCR-VL: a packed tower with patches in raster order, 2x2 projector, M-RoPE; images only."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration

from vtprune.testing.models.patches import Layout, whole_video
from vtprune.testing.models.tiny import (
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    Attention,
    Inputs,
    Tiny,
    build,
    text_config,
)

PATCH, MERGE = 4, 2
GRIDS = ((1, 8, 8), (1, 4, 8), (1, 8, 12), (1, 6, 10))


@cache
def tiny_paddleocr_vl(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 2) -> Tiny:
    """PaddleOCR-VL whose learned positions form an 8 by 8 grid, resampled to each image's."""
    config = PaddleOCRVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": 8 * PATCH,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
        },
        text_config={
            **text_config(layers),
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    layout = Layout(PATCH, 1, MERGE, GRIDS, whole_video)

    def make_inputs(*args: Any, **kwargs: Any) -> Inputs:
        if any(kwargs.get("videos") or ()):
            raise ValueError("videos were given, but PaddleOCR-VL reads images only; leave videos out")
        inputs = layout.make_inputs(*args, **kwargs)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].view(-1, 3, PATCH, PATCH)
        return inputs

    return Tiny(f"paddleocr_vl-{attn}", build(PaddleOCRVLForConditionalGeneration, config, attn), make_inputs)
