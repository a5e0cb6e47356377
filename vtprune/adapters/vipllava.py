"""VIP-LLaVA (arXiv 2312.00784): LLaVA-1.5 whose projector reads the patches of several tower layers side by side."""

from __future__ import annotations

from vtprune.adapters.clip_like import clip_like

ADAPTER = clip_like(
    name="vipllava",
    summary="VIP-LLaVA",
    architectures=("VipLlavaForConditionalGeneration",),
)
