"""Qwen3-VL (arXiv 2511.21631), dense and with experts: as Qwen2-VL, with DeepStack and interleaved M-RoPE.

Features of earlier vision layers, each through a merger of its own, are added to the vision tokens after the first
decoder layers; the engine keeps them in step with what is dropped. `vision.output` is the last layer's output, the only
one that becomes input embeddings. The frames of a video stand apart, with timestamps in between.
"""

from __future__ import annotations

from vtprune.adapters.qwen_like import packed

ADAPTER = packed(
    name="qwen3_vl",
    summary="Qwen3-VL, dense and with experts",
    architectures=("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"),
    mergers=("visual.deepstack_merger_list",),
)
