"""Idefics2 (arXiv 2405.02246): SigLIP tower over images of any size, a perceiver resampler, Mistral with 1-D RoPE.

A vision token is a latent query of the perceiver that has read every patch: tokens form no grid, and no patch of the
tower belongs to one of them. FLOPs of the connector are counted per latent, which leaves out what it spends on patches.
"""

from __future__ import annotations

from typing import Any

from vtprune.adapters.idefics import real_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput
from vtprune.core.signals import KINDS


def _images(model: Any, call: VisionCall) -> list[VisionInput]:
    latents = model.config.perceiver_config.resampler_n_latents
    return [VisionInput(latents, None, pixels, number) for number, pixels in enumerate(real_images(model, call))]


ADAPTER = Adapter(
    name="idefics2",
    summary="Idefics2",
    architectures=("Idefics2ForConditionalGeneration",),
    language_model="text_model",
    vision_tower="vision_model",
    vision_layers="encoder.layers",
    projector="connector",
    placeholders={"image": "image_token_id"},
    images=_images,
    provides=frozenset(KINDS) - {"grid", "vision_attention"},
)
