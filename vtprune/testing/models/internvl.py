"""Tiny InternVL: tower with a CLS token, pixel shuffle, Qwen2 or Llama as language model."""

from __future__ import annotations

from functools import cache, partial
from typing import Literal

from transformers import InternVLConfig, InternVLForConditionalGeneration

from vtprune.testing.models.crops import crop_inputs, one_run
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config

INTERNVL_SIZE, INTERNVL_PATCH = 32, 4
TOKENS = (INTERNVL_SIZE // INTERNVL_PATCH // 2) ** 2


@cache
def tiny_internvl(
    attn: Attention = "sdpa", text: Literal["qwen2", "llama"] = "qwen2", layers: int = 4, *, vision_layers: int = 3
) -> Tiny:
    """InternVL with 16 vision tokens per crop. Options of its inputs: `splits`, one (rows, columns) per image."""
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": [INTERNVL_SIZE, INTERNVL_SIZE],
            "patch_size": [INTERNVL_PATCH, INTERNVL_PATCH],
            "layer_scale_init_value": 1.0,
        },
        text_config={"model_type": text, **text_config(layers)},
        image_token_id=IMAGE,
        image_seq_length=TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    make_inputs = partial(crop_inputs, tokens=partial(one_run, each=TOKENS), size=INTERNVL_SIZE)
    return Tiny(f"internvl-{text}-{attn}", build(InternVLForConditionalGeneration, config, attn), make_inputs)
