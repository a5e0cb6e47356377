"""Tiny VIP-LLaVA: the projector reads several layers of a CLIP tower."""

from __future__ import annotations

from functools import cache, partial

from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

from vtprune.testing.models.square import square_inputs
from vtprune.testing.models.tiles import PATCH, TILE, vision_config
from vtprune.testing.models.tiny import IMAGE, Attention, Tiny, build, text_config


@cache
def tiny_vipllava(attn: Attention = "sdpa", layers: int = 4, *, vision_layers: int = 3) -> Tiny:
    """VIP-LLaVA with 16 vision tokens per image, made of the tower's second and last-but-one hidden states."""
    tokens = (TILE // PATCH) ** 2
    renamed = "vision_feature_layer" in VipLlavaConfig.__dataclass_fields__  # since 5.2x
    config = VipLlavaConfig(
        vision_config=vision_config("clip", vision_layers),
        text_config={"model_type": "llama", **text_config(layers)},
        image_token_index=IMAGE,
        image_seq_length=tokens,
        **{"vision_feature_layer" if renamed else "vision_feature_layers": [1, -2]},
    )
    return Tiny(
        f"vipllava-{attn}",
        build(VipLlavaForConditionalGeneration, config, attn),
        partial(square_inputs, tokens=tokens, size=TILE),
    )
