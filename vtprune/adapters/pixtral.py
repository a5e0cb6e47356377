"""Pixtral (arXiv 2410.07073): LLaVA's architecture with a tower that packs images of any size; nothing is merged.

The marks that end the rows of an image are text.
"""

from __future__ import annotations

from vtprune.adapters.pixtral_like import pixtral_like
from vtprune.adapters.rows import project_row

ADAPTER = pixtral_like(
    name="pixtral",
    summary="Pixtral (LLaVA's architecture with a Pixtral tower)",
    architectures=("LlavaForConditionalGeneration",),
    tower_types=("pixtral",),
    project=project_row,
)
