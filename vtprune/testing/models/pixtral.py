"""Tiny Pixtral: LLaVA with a tower that packs all images into one sequence, Mistral; nothing is merged."""

from __future__ import annotations

from functools import cache, partial

from transformers import LlavaConfig, LlavaForConditionalGeneration

from vtprune.testing.models.pixtral_like import broken_rows, sized_inputs, tower
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config


@cache
def tiny_pixtral(
    attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3, sliding_window: int | None = None
) -> Tiny:
    """Pixtral with one vision token for 8 x 8 pixels. Options of its inputs: `sizes`, (height, width) per image."""
    config = LlavaConfig(
        vision_config=tower(vision_layers, merge=1),
        text_config={"model_type": "mistral", "head_dim": 16, "sliding_window": sliding_window, **text_config(layers)},
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    model = build(LlavaForConditionalGeneration, config, attn)
    return Tiny(f"pixtral-{attn}", model, partial(sized_inputs, tokens=broken_rows))
