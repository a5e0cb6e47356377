"""Tiny GOT-OCR 2.0: SAM-like tower with windows, convolutional projector, Qwen2."""

from __future__ import annotations

from functools import cache, partial

from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration

from vtprune.testing.models.crops import crop_inputs, one_run
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config

GOT_SIZE, GOT_PATCH = 64, 4
TOKENS = (GOT_SIZE // GOT_PATCH // 4) ** 2


@cache
def tiny_got_ocr2(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """GOT-OCR 2.0 with 16 vision tokens per crop. Options of its inputs: `splits`, (rows, columns) of each image."""
    config = GotOcr2Config(
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": GOT_SIZE,
            "patch_size": GOT_PATCH,
            "window_size": 6,
            "global_attn_indexes": [vision_layers - 1],
            "mlp_dim": 48,
        },
        text_config={"model_type": "qwen2", **text_config(layers)},
        image_token_index=IMAGE,
        image_seq_length=TOKENS,
        tie_word_embeddings=False,
    )
    model = build(GotOcr2ForConditionalGeneration, config, attn)
    return Tiny(f"got_ocr2-{attn}", model, partial(crop_inputs, tokens=partial(one_run, each=TOKENS), size=GOT_SIZE))
