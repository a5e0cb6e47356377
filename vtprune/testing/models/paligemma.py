"""Tiny PaliGemma: SigLIP tower, one token per patch, a prompt that attends to itself in both directions."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from vtprune.testing.models.square import square_inputs
from vtprune.testing.models.tiny import IMAGE, Attention, Inputs, Tiny, build, text_config

PALIGEMMA_SIZE, PALIGEMMA_PATCH = 28, 7
PALIGEMMA_WINDOW = 12


@cache
def tiny_paligemma(attn: Attention = "sdpa", generation: Literal[1, 2] = 1, layers: int = 4) -> Tiny:
    """PaliGemma with 16 vision tokens per image, which come before the text.

    generation: 1 has Gemma as its language model, 2 Gemma2, whose layers have a window of 12 tokens and the whole
    prompt by turns, and whose attention scores are capped, which only the eager kernel does: `attn` then concerns the
    tower alone.
    """
    text = {**text_config(layers), "model_type": "gemma" if generation == 1 else "gemma2", "head_dim": 16}
    if generation == 2:
        text |= {"sliding_window": PALIGEMMA_WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 8.0}
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": PALIGEMMA_SIZE,
            "patch_size": PALIGEMMA_PATCH,
            "vision_use_head": False,
            "projection_dim": 64,
        },
        text_config=text,
        projection_dim=64,
        hidden_size=64,
        image_token_index=IMAGE,
        tie_word_embeddings=False,
    )
    model = build(PaliGemmaForConditionalGeneration, config, attn if generation == 1 else "eager")
    if generation == 2:
        model.set_attn_implementation({"vision_config": attn})
    embeddings: Any = model.get_input_embeddings()
    embeddings.weight.div_(8.0)  # Gemma multiplies text embeddings by sqrt(64); images shall weigh as much
    return Tiny(f"paligemma{generation}-{attn}", model, _inputs)


def _inputs(*args: Any, **options: Any) -> Inputs:
    inputs = square_inputs(
        *args,
        **options,
        tokens=(PALIGEMMA_SIZE // PALIGEMMA_PATCH) ** 2,
        size=PALIGEMMA_SIZE,
        starts_with_image=True,
    )
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs
