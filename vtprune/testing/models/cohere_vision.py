"""Tiny Aya Vision and Command A Vision: SigLIP tower, pixel shuffle, Cohere2 with sliding windows."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, Literal

from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
)

from vtprune.testing.models.crops import crop_inputs
from vtprune.testing.models.prompts import MARKS, Split, crops_of, placeholders
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config

COHERE_SIZE, COHERE_PATCH, COHERE_FACTOR = 32, 4, 2
TOKENS = (COHERE_SIZE // COHERE_PATCH // COHERE_FACTOR) ** 2
START, END, PLACE, WHOLE = MARKS[:4]
Family = Literal["aya_vision", "cohere2_vision"]


@cache
def tiny_cohere_vision(
    attn: Attention = "sdpa",
    family: Family = "aya_vision",
    layers: int = 4,
    *,
    sliding_window: int = 4096,
    vision_layers: int = 3,
) -> Tiny:
    """Aya Vision or Command A Vision with 16 vision tokens per crop; every decoder layer but the last one has a window.

    Options of its inputs: `splits`, (rows, columns) of each image.
    """
    parts: dict[str, Any] = {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": COHERE_SIZE,
            "patch_size": COHERE_PATCH,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "cohere2",
            **text_config(layers),
            "sliding_window": sliding_window,
            "layer_types": [*["sliding_attention"] * (layers - 1), "full_attention"],
            "logit_scale": 1.0,
        },
        "downsample_factor": COHERE_FACTOR,
        "alignment_intermediate_size": 64,
        "tie_word_embeddings": False,
    }
    if family == "aya_vision":
        model = build(AyaVisionForConditionalGeneration, AyaVisionConfig(image_token_index=IMAGE, **parts), attn)
    else:
        model = build(Cohere2VisionForConditionalGeneration, Cohere2VisionConfig(image_token_id=IMAGE, **parts), attn)
    tokens = _aya_tokens if family == "aya_vision" else _command_tokens
    make_inputs = partial(crop_inputs, tokens=tokens, size=COHERE_SIZE)
    return Tiny(f"{family}-window{sliding_window}-{attn}", model, make_inputs)


def _aya_tokens(split: Split) -> list[int]:
    """An image's tokens: a mark before each crop, another one before the whole image, which comes last."""
    return [START, *[PLACE, *placeholders(TOKENS)] * (crops_of(split) - 1), WHOLE, *placeholders(TOKENS), END]


def _command_tokens(split: Split) -> list[int]:
    """An image's tokens: a mark after each crop."""
    return [START, *[*placeholders(TOKENS), PLACE] * crops_of(split), END]
