"""DeepSeek-VL (arXiv 2403.05525) with one vision tower: SigLIP, a token per patch, an MLP, Llama with 1-D RoPE.

The features are what the tower returns, so all of its layers count. There is no CLS token; rows of the tower, of the
aligner and of the prompt are the patches in raster order, image after image. The larger checkpoints have a second tower
for high resolution (``DeepseekVLHybridForConditionalGeneration``), which this adapter does not claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.plugin import Adapter, VisionCall, VisionInput


def images(model: Any, call: VisionCall) -> list[VisionInput]:
    """One rectangle per image of ``pixel_values``, ``[image, channel, height, width]``."""
    pixels: Tensor = call.arguments["pixel_values"]
    patch = model.config.vision_config.patch_size
    height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    return [VisionInput(height * width, (1, height, width), image, number) for number, image in enumerate(pixels)]


def rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """int64 ``[vision, 1]`` for each image: its tokens are the rows as they come, in the tower as in the aligner."""
    counts = [image.tokens for image in images]
    return list(torch.arange(sum(counts)).unsqueeze(-1).split(counts))


def tower_depth(model: Any) -> int:
    """Every vision layer: the features are what the last one returns."""
    return int(model.config.vision_config.num_hidden_layers)


def project(model: Any, features: Tensor) -> Tensor:
    """float ``[vision, 1, dim]`` of the tower to ``[vision, dim]`` of the language model."""
    projected: Tensor = model.base_model.aligner(features.squeeze(1))
    return projected


def unique(model: Any, modality: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """The arguments with every picture once, and for each image the number of its picture."""
    pictures, number = torch.unique(arguments["pixel_values"], dim=0, return_inverse=True)
    return {**arguments, "pixel_values": pictures}, number.tolist()


ADAPTER = Adapter(
    name="deepseek_vl",
    summary="DeepSeek-VL with one vision tower",
    architectures=("DeepseekVLForConditionalGeneration",),
    language_model="language_model",
    vision_tower="vision_model",
    vision_layers="encoder.layers",
    vision_attention="self_attn",
    projector="aligner",
    placeholders={"image": "image_token_id"},
    images=images,
    tower_rows=rows,
    projector_rows=rows,
    tower_depth=tower_depth,
    project=project,
    unique=unique,
    tiny="vtprune_deepseek.tiny:make",
)
