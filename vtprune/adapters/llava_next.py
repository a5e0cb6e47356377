"""LLaVA-NeXT (LLaVA-1.6): LLaVA-1.5 with images cut into tiles and newline tokens."""

from __future__ import annotations

from vtprune.adapters import tiled
from vtprune.adapters.clip_like import clip_like

ADAPTER = clip_like(
    tiled.patches,
    name="llava_next",
    summary="LLaVA-NeXT (LLaVA-1.6)",
    architectures=("LlavaNextForConditionalGeneration",),
    images=tiled.images,
    windows=tiled.windows,
)
