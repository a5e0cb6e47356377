"""Tiny Gemma3: SigLIP tower, 2x2 average pooling, sliding and full layers with a rotary embedding each."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from vtprune.testing.models.square import square_inputs
from vtprune.testing.models.tiny import (
    IMAGE,
    VISION_END,
    VISION_START,
    Attention,
    Inputs,
    Tiny,
    build,
    text_config,
    vision_mask,
    weigh_norms,
)

GEMMA3_SIZE, GEMMA3_PATCH, GEMMA3_TOKENS = 32, 4, 16
GEMMA3_LAYERS = ("sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention")


@cache
def tiny_gemma3(attn: Attention = "sdpa", window: int = 12, layer_types: tuple[str, ...] = GEMMA3_LAYERS) -> Tiny:
    """Gemma3 with 16 vision tokens per image, which see one another in both directions during the prefill.

    window: of the sliding layers; the default is shorter than an image.
    """
    config = Gemma3Config(
        text_config={
            **text_config(len(layer_types)),
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": window,
            "layer_types": list(layer_types),
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": GEMMA3_SIZE,
            "patch_size": GEMMA3_PATCH,
            "vision_use_head": False,
        },
        mm_tokens_per_image=GEMMA3_TOKENS,
        image_token_index=IMAGE,
        boi_token_index=VISION_START,
        eoi_token_index=VISION_END,
        tie_word_embeddings=False,
    )
    model = build(Gemma3ForConditionalGeneration, config, attn)
    embeddings: Any = model.get_input_embeddings()
    embeddings.weight.div_(8.0)  # Gemma multiplies text embeddings by sqrt(64); images shall weigh as much
    weigh_norms(model, "q_norm", 1.0)
    return Tiny(f"gemma3-window{window}-{attn}", model, _inputs)


def _inputs(*args: Any, **options: Any) -> Inputs:
    inputs = square_inputs(*args, **options, tokens=GEMMA3_TOKENS, size=GEMMA3_SIZE, wrap=True)
    inputs["token_type_ids"] = vision_mask(inputs).long()
    return inputs
