"""Aria (arXiv 2410.05993): Idefics3's tower, a projector of latent queries, a mixture-of-experts language model.

A vision token is a query of the projector's cross-attention that has read every patch: tokens form no grid, and no
patch of the tower belongs to one of them. FLOPs of the projector are counted per query, which leaves out what it spends
on patches.
"""

from __future__ import annotations

from typing import Any

from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput
from vtprune.core.signals import KINDS


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    """The call does not say which crops make up an image, so each counts as one of its own."""
    pixels = call.arguments["pixel_values"]
    return [
        VisionInput(len(made), None, crop, number)
        for number, (crop, made) in enumerate(zip(pixels, call.features, strict=True))
    ]


ADAPTER = Adapter(
    name="aria",
    summary="Aria",
    architectures=("AriaForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="encoder.layers",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=_images,
    unique=unique_images("pixel_values", "pixel_mask"),
    provides=frozenset(KINDS) - {"grid", "vision_attention"},
)
