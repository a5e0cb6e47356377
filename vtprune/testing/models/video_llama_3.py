"""Tiny VideoLLaMA3: a packed tower whose output is pooled by each image's own factor (2 for videos); Qwen2."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from vtprune.testing.models.patches import Layout, Row
from vtprune.testing.models.tiny import IMAGE, VIDEO, Attention, Grid, Inputs, Tiny, build, text_config

PATCH = 4
GRIDS = ((1, 4, 4), (1, 2, 4), (1, 4, 6), (1, 3, 5))
LAYOUT_MERGES = {"image": 1, "video": 2}


def _video(grid: Grid) -> Row:
    """Each frame after its timestamp ("Time 0.5s:"), with commas in between."""
    t, h, w = grid
    return [item for frame in range(t) for item in [(10, 0), (20 + frame, 0), *[(VIDEO, 2)] * (h * w), (11, 0)]]


@cache
def tiny_video_llama_3(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 2) -> Tiny:
    """VideoLLaMA3, whose images have as many tokens as patches."""
    config = VideoLlama3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "patch_size": PATCH,
        },
        text_config={"model_type": "qwen2", **text_config(layers)},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    layout = Layout(PATCH, 1, LAYOUT_MERGES["image"], GRIDS, _video, video_merge=LAYOUT_MERGES["video"])

    def make_inputs(*args: Any, **kwargs: Any) -> Inputs:
        inputs = layout.make_inputs(*args, **kwargs)
        del inputs["mm_token_type_ids"]
        for kind, merge in LAYOUT_MERGES.items():
            if f"{kind}_grid_thw" in inputs:
                inputs[f"{kind}_merge_sizes"] = torch.full((len(inputs[f"{kind}_grid_thw"]),), merge)
        return inputs

    return Tiny(f"video_llama_3-{attn}", build(VideoLlama3ForConditionalGeneration, config, attn), make_inputs)
