"""Mllama (Llama 3.2 Vision, arXiv 2407.21783): refused, because no vision token ever enters its sequence."""

from __future__ import annotations

from vtprune.core.adapter import Adapter

ADAPTER = Adapter(
    name="mllama",
    summary="Llama 3.2 Vision: refused, since its vision tokens are read by cross-attention only",
    architectures=("MllamaForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_model",
    placeholders={},
    images=lambda model, call: [],
    unsupported=(
        "its vision tokens never enter the language model's sequence; cross-attention layers read them, so there are "
        "no hidden states to drop them from, and every method here ranks tokens of the sequence. Use a model that puts "
        "its vision tokens into the prompt, such as LLaVA, Qwen2.5-VL or Gemma 3"
    ),
)
