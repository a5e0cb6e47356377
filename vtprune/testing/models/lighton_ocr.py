"""Tiny LightOnOCR: Pixtral tower that packs all images into one sequence, 2x2 merger, Qwen3."""

from __future__ import annotations

from functools import cache, partial

from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

from vtprune.testing.models.pixtral_like import grid, sized_inputs, tower
from vtprune.testing.models.prompts import Size, placeholders
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config

MERGE = 2


@cache
def tiny_lighton_ocr(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """LightOnOCR with one vision token for 8 x 8 pixels. Options of its inputs: `sizes`, (height, width) per image."""
    config = LightOnOcrConfig(
        vision_config=tower(vision_layers, MERGE),
        text_config={"model_type": "qwen3", "head_dim": 16, **text_config(layers)},
        image_token_id=IMAGE,
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
    )
    model = build(LightOnOcrForConditionalGeneration, config, attn)
    return Tiny(f"lighton_ocr-{attn}", model, partial(sized_inputs, tokens=_tokens))


def _tokens(size: Size) -> list[int]:
    rows, columns = grid(size)
    return placeholders(rows * columns)
