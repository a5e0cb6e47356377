"""Tiny Gemma4: padded patch sequences of images of any shape, 2x2 pooling, layers that differ in their heads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from vtprune.testing.models.tiny import (
    IMAGE,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    Attention,
    Grid,
    Inputs,
    Side,
    Tiny,
    build,
    draw,
    pad_rows,
    text_config,
    token_row,
    vision_mask,
    weigh_norms,
)

GEMMA4_PATCH, GEMMA4_POOL, GEMMA4_PATCHES = 4, 2, 64
GEMMA4_GRIDS: tuple[Grid, ...] = ((1, 8, 8), (1, 4, 8), (1, 8, 6), (1, 6, 10))
GEMMA4_LAYERS = ("sliding_attention", "full_attention", "sliding_attention", "full_attention")


@cache
def tiny_gemma4(
    attn: Attention = "sdpa",
    *,
    window: int = 12,
    per_layer: int = 0,
    shared: int = 0,
    bidirectional: Literal["vision"] | None = None,
    layer_types: tuple[str, ...] = GEMMA4_LAYERS,
) -> Tiny:
    """Gemma4 with sliding layers of 2 KV heads, 16 wide, and full layers of 1 KV head, 32 wide.

    window: of the sliding layers. per_layer: width of the embeddings that every layer gets besides its hidden states,
    0 for none. shared: how many of the last layers read the keys and values of earlier ones; transformers needs
    `per_layer` with it. bidirectional: whether the tokens of an image see one another in both directions (in the
    sliding layers, as in the large models).
    """
    config = Gemma4Config(
        text_config={
            **text_config(len(layer_types)),
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "sliding_window": window,
            "layer_types": list(layer_types),
            "num_kv_shared_layers": shared,
            "hidden_size_per_layer_input": per_layer,
            "vocab_size_per_layer_input": VOCABULARY,
            "use_bidirectional_attention": bidirectional,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": GEMMA4_PATCH,
            "pooling_kernel_size": GEMMA4_POOL,
            "position_embedding_size": 16,
        },
        audio_config=None,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=PAD,  # no prompt has audio
        boi_token_id=VISION_START,
        eoi_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    model: Any = build(Gemma4ForConditionalGeneration, config, attn)
    model.get_input_embeddings().weight.div_(8.0)  # Gemma multiplies text embeddings by sqrt(64); images weigh as much
    if per_layer:
        model.get_per_layer_input_embeddings().weight.div_(per_layer**0.5)
        weigh_norms(model, "post_per_layer_input_norm", 0.3)  # at 1 it amplifies float32 noise to 1e-5 in the logits
    weigh_norms(model, "q_norm", 0.35)
    parts = [f"layer{per_layer}" * bool(per_layer), f"shared{shared}" * bool(shared), bidirectional or ""]
    return Tiny("-".join(["gemma4", f"window{window}", *filter(None, parts), attn]), model, _inputs)


def _inputs(
    images: Sequence[int] = (1,),
    grids: Sequence[Grid] | None = None,
    seed: int = 0,
    side: Side = "left",
    text: tuple[int, int] = (2, 6),
) -> Inputs:
    if grids is not None and len(grids) != sum(images):
        raise ValueError(
            f"got {len(grids)} grids for {sum(images)} images (images={tuple(images)}); give one grid per image"
        )
    rows, pixels, places = [], list[Tensor](), list[Tensor]()
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        drawn = [GEMMA4_GRIDS[draw(0, len(GEMMA4_GRIDS) - 1, generator)] for _ in range(count)]
        own = drawn if grids is None else list(grids[len(pixels) : len(pixels) + count])
        rows.append(token_row([t * h * w // GEMMA4_POOL**2 for t, h, w in own], text, generator, wrap=True))
        for _, height, width in own:
            patches = torch.rand(height * width, 3 * GEMMA4_PATCH**2, generator=generator)
            pixels.append(_padded(patches, 0.0))
            places.append(_padded(torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1), -1))
    inputs = pad_rows(rows, side)
    inputs["mm_token_type_ids"] = vision_mask(inputs).long()
    if pixels:
        inputs["pixel_values"], inputs["image_position_ids"] = torch.stack(pixels), torch.stack(places)
    return inputs


def _padded(rows: Tensor, value: float) -> Tensor:
    """``[patch, ...]`` filled up to the number of patches that every image of the model has."""
    return torch.nn.functional.pad(rows, (0, 0, 0, GEMMA4_PATCHES - len(rows)), value=value)
