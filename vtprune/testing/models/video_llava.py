"""Tiny Video-LLaVA: one CLIP tower for images and another for videos, whose frames keep their CLS token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from inspect import signature

import torch
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from vtprune.testing.models.tiles import FRAMES, PATCH, TILE, counts, mixed_row, vision_config
from vtprune.testing.models.tiny import IMAGE, VIDEO, Attention, Grid, Inputs, Side, Tiny, build, pad_rows, text_config


@cache
def tiny_video_llava(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """Video-LLaVA with 16 vision tokens for an image and 17 for each frame of a video."""
    config = VideoLlavaConfig(
        vision_config=vision_config("clip", vision_layers),
        text_config={"model_type": "llama", **text_config(layers)},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return Tiny(f"video_llava-{attn}", build(VideoLlavaForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
    videos: Sequence[int] | None = None,
) -> Inputs:
    """Inputs as `Tiny` describes them; videos: how many each sample holds. All videos have `FRAMES` frames."""
    if grids is not None:
        raise ValueError("grids were given, but every image of this tiny model has the same size; leave grids out")
    rows, pixels, frames = [], [], []
    patches = (TILE // PATCH) ** 2
    for sample, (stills, clips) in enumerate(counts(images, videos)):
        generator = torch.Generator().manual_seed(seed + sample)
        rows.append(mixed_row([patches] * stills, [FRAMES * (patches + 1)] * clips, text, generator))
        pixels.append(torch.randn(stills, 3, TILE, TILE, generator=generator))
        frames.append(torch.randn(clips, FRAMES, 3, TILE, TILE, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        renamed = "pixel_values" in signature(VideoLlavaForConditionalGeneration.forward).parameters  # since 5.2x
        inputs["pixel_values" if renamed else "pixel_values_images"] = torch.cat(pixels)
    if any(videos or ()):
        inputs["pixel_values_videos"] = torch.cat(frames)
    return inputs
