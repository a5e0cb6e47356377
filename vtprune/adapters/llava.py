"""LLaVA-1.5 (arXiv 2310.03744): CLIP tower, MLP projector, Llama-like language model with 1-D RoPE.

With ``vision_feature_select_strategy="default"`` the CLS token is cut before the projector; with ``"full"`` it stays
as an ordinary vision token, and the tokens then form no grid.
"""

from __future__ import annotations

from vtprune.adapters.clip_like import clip_like

ADAPTER = clip_like(
    name="llava",
    summary="LLaVA-1.5 and models of its architecture",
    architectures=("LlavaForConditionalGeneration",),
)
