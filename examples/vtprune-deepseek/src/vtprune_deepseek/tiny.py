"""A tiny DeepSeek-VL with random weights, for tests: no download. ``vtprune verify --family
vtprune-deepseek/deepseek_vl`` checks the family in every mode."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration

from vtprune.testing.models.square import square_inputs
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Tiny, build, text_config

SIZE, PATCH = 28, 7
TOKENS = (SIZE // PATCH) ** 2


@cache
def make(attn: Attention = "sdpa", layers: int = 4) -> Tiny:
    """16 vision tokens per image, three vision layers, and a Llama of ``layers`` layers with grouped queries."""
    config = DeepseekVLConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIZE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config={**text_config(layers), "model_type": "llama"},
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )
    return Tiny(f"deepseek_vl-{attn}", build(DeepseekVLForConditionalGeneration, config, attn), _inputs)


def _inputs(*args: Any, **options: Any) -> Inputs:
    return square_inputs(*args, **options, tokens=TOKENS, size=SIZE)
