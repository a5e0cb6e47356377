"""Tiny LLaVA-NeXT-Video: images as in LLaVA-NeXT, and videos whose frames are pooled 2x2 before the projector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from vtprune.testing.models.llava_next import drawn_tiles
from vtprune.testing.models.tiles import (
    FRAMES,
    PATCH,
    PINPOINTS,
    SIZES,
    TILE,
    Size,
    counts,
    drawn_sizes,
    mixed_row,
    padded_tiles,
    split_sizes,
    tiled,
    vision_config,
)
from vtprune.testing.models.tiny import IMAGE, VIDEO, Attention, Inputs, Side, Tiny, build, pad_rows, text_config

STRIDE = 2


@cache
def tiny_llava_next_video(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """LLaVA-NeXT-Video with four tokens for each frame of a video."""
    config = LlavaNextVideoConfig(
        vision_config=vision_config("clip", vision_layers),
        text_config={"model_type": "llama", **text_config(layers)},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
        spatial_pool_mode="average",
        spatial_pool_stride=STRIDE,
    )
    return Tiny(f"llava_next_video-{attn}", build(LlavaNextVideoForConditionalGeneration, config, attn), _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
    videos: Sequence[int] | None = None,
) -> Inputs:
    """Inputs as `Tiny` describes them; videos: how many each sample holds. All videos have `FRAMES` frames."""
    rows, pixels, frames = [], [], []
    used: list[Size] = []
    side_tokens = TILE // PATCH
    for sample, ((stills, clips), given) in enumerate(
        zip(counts(images, videos), split_sizes(images, sizes), strict=True)
    ):
        generator = torch.Generator().manual_seed(seed + sample)
        own = drawn_sizes(stills, SIZES, given, generator)
        tokens = [tiled(size, PINPOINTS, TILE, side_tokens)[1] for size in own]
        rows.append(mixed_row(tokens, [FRAMES * (side_tokens // STRIDE) ** 2] * clips, text, generator))
        pixels += drawn_tiles(own, generator)
        frames.append(torch.randn(clips, FRAMES, 3, TILE, TILE, generator=generator))
        used += own
    inputs = pad_rows(rows, side)
    if used:
        inputs["pixel_values"], inputs["image_sizes"] = padded_tiles(pixels), torch.tensor(used)
    if any(videos or ()):
        inputs["pixel_values_videos"] = torch.cat(frames)
    return inputs
