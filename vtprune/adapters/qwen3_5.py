"""Qwen3.5, dense and with experts: the tower of Qwen3-VL without DeepStack; most decoder layers are gated delta nets.

Those layers carry a state instead of keys and values, so they have no attention to read and nothing to evict; what is
dropped before them was never there. The frames of a video stand apart, with timestamps in between.
"""

from __future__ import annotations

from vtprune.adapters.qwen_like import packed

ADAPTER = packed(
    name="qwen3_5",
    summary="Qwen3.5, dense and with experts",
    architectures=("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
)
