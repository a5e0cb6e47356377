"""Qwen2-VL (arXiv 2409.12191): no CLS token, attention within frames, 2x2 merger, M-RoPE."""

from __future__ import annotations

from vtprune.adapters.qwen_like import packed

ADAPTER = packed(name="qwen2_vl", summary="Qwen2-VL", architectures=("Qwen2VLForConditionalGeneration",))
