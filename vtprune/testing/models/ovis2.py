"""Tiny Ovis2: crops with visual indicators between them, patches merged inside the tower, a table of visual words."""

from __future__ import annotations

from functools import cache, partial

from transformers import Ovis2Config, Ovis2ForConditionalGeneration

from vtprune.testing.models.crops import crop_inputs
from vtprune.testing.models.prompts import MARKS, Split, crops_of, placeholders
from vtprune.testing.models.tiny import IMAGE, VOCABULARY, Attention, Tiny, build, text_config

OVIS2_SIZE, OVIS2_PATCH, OVIS2_STRIDE = 32, 4, 2
TOKENS = (OVIS2_SIZE // OVIS2_PATCH // OVIS2_STRIDE) ** 2
START, WHOLE, COLUMN, ROW, END = MARKS


@cache
def tiny_ovis2(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """Ovis2 with 16 vision tokens per crop. Options of its inputs: `splits`, (rows, columns) of each image."""
    config = Ovis2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": OVIS2_SIZE,
            "patch_size": OVIS2_PATCH,
            "vocab_size": 40,
            "hidden_stride": OVIS2_STRIDE,
            "num_visual_indicator_tokens": len(MARKS),
        },
        text_config={"model_type": "qwen2", **text_config(layers)},
        image_token_id=IMAGE,
        visual_indicator_token_ids=list(MARKS),
        vocab_size=VOCABULARY,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    model = build(Ovis2ForConditionalGeneration, config, attn)
    return Tiny(f"ovis2-{attn}", model, partial(crop_inputs, tokens=_tokens, size=OVIS2_SIZE))


def _tokens(split: Split) -> list[int]:
    """An image's tokens: the whole image, then its crops with marks between columns and rows."""
    rows, columns = split
    row = [START, *placeholders(TOKENS), WHOLE]
    if crops_of(split) > 1:
        line = [*([*placeholders(TOKENS), COLUMN] * columns)[:-1], ROW]
        row += (line * rows)[:-1]
    return [*row, END]
