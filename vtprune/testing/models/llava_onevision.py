"""Tiny LLaVA-OneVision: SigLIP tower without a CLS token, single images in tiles, several images and videos without."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from vtprune.testing.models.tiles import (
    FRAMES,
    PATCH,
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

TILINGS = ((1, 1), (1, 2), (2, 1), (2, 2))


@cache
def tiny_llava_onevision(
    attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3, edge: int = 4, most_tiles: int = 4
) -> Tiny:
    """LLaVA-OneVision.

    edge: patches of a tile's edge. Videos are resized to half of it, rounded up; with an odd one (27 in the released
    models) their tokens mix patches in unequal parts.
    most_tiles: images of more tiles than this are resized ("anyres_max_9" in the released models).
    """
    tile = edge * PATCH
    pinpoints = [[rows * tile, columns * tile] for rows, columns in TILINGS]
    config = LlavaOnevisionConfig(
        vision_config=vision_config("siglip", vision_layers, size=tile),
        text_config={"model_type": "qwen2", **text_config(layers)},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{most_tiles}",
        image_grid_pinpoints=pinpoints,
    )
    model = build(LlavaOnevisionForConditionalGeneration, config, attn)
    return Tiny(f"llava_onevision-{attn}-{edge}-{most_tiles}", model, partial(_inputs, edge=edge, most=most_tiles))


def _inputs(
    images: Sequence[int] = (1,),
    sizes: Sequence[Size] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
    videos: Sequence[int] | None = None,
    *,
    edge: int,
    most: int,
) -> Inputs:
    """Inputs as `Tiny` describes them; videos: how many each sample holds. All videos have `FRAMES` frames.

    As the processor of transformers does, the only image of a sample is cut into tiles, several images are not.
    """
    tile = edge * PATCH
    pinpoints = [[rows * tile, columns * tile] for rows, columns in TILINGS]
    choices = ((2 * tile, 2 * tile), (tile, 2 * tile), (2 * tile, tile - PATCH), (tile + PATCH, 2 * tile), (tile, tile))
    rows, pixels, frames = [], [], []
    used: list[Size] = []
    for sample, ((stills, clips), given) in enumerate(
        zip(counts(images, videos), split_sizes(images, sizes), strict=True)
    ):
        generator = torch.Generator().manual_seed(seed + sample)
        own = drawn_sizes(stills, choices, given, generator)
        layouts = [tiled(size, pinpoints, tile, edge, most) if stills == 1 else (0, edge**2 + 1) for size in own]
        video = FRAMES * ((edge + 1) // 2) ** 2 + 1
        rows.append(mixed_row([tokens for _, tokens in layouts], [video] * clips, text, generator))
        pixels += [torch.randn(1 + tiles, 3, tile, tile, generator=generator) for tiles, _ in layouts]
        frames.append(torch.randn(clips, FRAMES, 3, tile, tile, generator=generator))
        used += own
    inputs = pad_rows(rows, side)
    if used:
        inputs["pixel_values"], inputs["image_sizes"] = padded_tiles(pixels), torch.tensor(used)
        inputs["batch_num_images"] = torch.tensor(images)
    if any(videos or ()):
        inputs["pixel_values_videos"] = torch.cat(frames)
    return inputs
