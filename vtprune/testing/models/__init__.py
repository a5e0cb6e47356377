"""Tiny vision-language models with random weights, built from transformers configurations (no downloads).

One file a family. All use float32 and fixed seeds. Models are cached and shared: whoever uses one leaves it as it was.
"""

from vtprune.testing.models.llava import LLAVA_PATCH, LLAVA_SIZE, tiny_llava
from vtprune.testing.models.qwen2_5_vl import QWEN_GRIDS, QWEN_MERGE, QWEN_PATCH, QWEN_TEMPORAL, tiny_qwen2_5_vl
from vtprune.testing.models.tiny import (
    IMAGE,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    Attention,
    Grid,
    Inputs,
    Tiny,
    build,
    forget_dialogues,
    pad_rows,
    text_config,
    token_row,
    vision_mask,
)

__all__ = [
    "IMAGE",
    "LLAVA_PATCH",
    "LLAVA_SIZE",
    "PAD",
    "QWEN_GRIDS",
    "QWEN_MERGE",
    "QWEN_PATCH",
    "QWEN_TEMPORAL",
    "VIDEO",
    "VISION_END",
    "VISION_START",
    "VOCABULARY",
    "Attention",
    "Grid",
    "Inputs",
    "Tiny",
    "build",
    "forget_dialogues",
    "pad_rows",
    "text_config",
    "tiny_llava",
    "tiny_qwen2_5_vl",
    "token_row",
    "vision_mask",
]
