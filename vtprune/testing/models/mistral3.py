"""Tiny Mistral3: Pixtral tower that packs all images into one sequence, 2x2 merger, Mistral."""

from __future__ import annotations

from functools import cache, partial

from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from vtprune.testing.models.pixtral_like import broken_rows, sized_inputs, tower
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config

MERGE = 2


@cache
def tiny_mistral3(
    attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3, sliding_window: int | None = None
) -> Tiny:
    """Mistral3 with one vision token for 8 x 8 pixels. Options of its inputs: `sizes`, (height, width) per image."""
    config = Mistral3Config(
        vision_config=tower(vision_layers, MERGE),
        text_config={"model_type": "mistral", "head_dim": 16, "sliding_window": sliding_window, **text_config(layers)},
        image_token_index=IMAGE,
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
    )
    model = build(Mistral3ForConditionalGeneration, config, attn)
    return Tiny(f"mistral3-{attn}", model, partial(sized_inputs, tokens=broken_rows))
