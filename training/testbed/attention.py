"""Attention for training: plain matrix products and a fused softmax.

torch's fused attention is fast forwards and slow backwards on a CPU: half of a training step. A CUDA device computes
the same products, so that one code is tested; its own fused attention was not tried. Registered with transformers
under `NAME`; a `Packed` in the mask's place lets many questions share one prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "testbed_training"
HIDDEN = -1e4


class _Softmax(torch.autograd.Function):
    """Softmax over the last axis in the input's own type; autocast would widen it to float32."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)


@dataclass(frozen=True)
class Packed:
    """A prefix of `prefix` tokens, causal, then questions that see the prefix and themselves.

    causal: `[prefix, prefix]`, words: `[batch, 1, word, word]`, both added to the scores.
    """

    prefix: int
    causal: Tensor
    words: Tensor


def pack(prefix: int, segment: Tensor) -> Packed:
    """The masks for questions whose words carry their question's number in `segment`, int64 `[batch, word]`."""
    count = segment.shape[1]
    visible = (segment[:, :, None] == segment[:, None, :]) & torch.ones(
        count, count, device=segment.device
    ).tril().bool()
    words = torch.zeros(visible.shape, device=segment.device).masked_fill(~visible, HIDDEN)
    causal = torch.full((prefix, prefix), HIDDEN, device=segment.device).triu(1)
    return Packed(prefix, causal, words[:, None])


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | Packed | None, scale: float) -> Tensor:
    """`[batch, head, token, dim]` each, equally many heads; see `Packed` for the mask."""
    query, key = (query * scale).to(value.dtype), key.to(value.dtype)
    with torch.autocast(query.device.type, enabled=False):
        if isinstance(mask, Packed):
            return _attend_packed(query, key, value, mask)
        scores = query @ key.transpose(-1, -2)
        return _Softmax.apply(scores if mask is None else scores + mask.to(scores.dtype)) @ value


def _attend_packed(query: Tensor, key: Tensor, value: Tensor, mask: Packed) -> Tensor:
    n = mask.prefix
    prefix_key, prefix_value = key[:, :, :n], value[:, :, :n]
    seen = _Softmax.apply(query[:, :, :n] @ prefix_key.transpose(-1, -2) + mask.causal.to(value.dtype)) @ prefix_value
    words, word_key, word_value = query[:, :, n:], key[:, :, n:], value[:, :, n:]
    own = words @ word_key.transpose(-1, -2) + mask.words.to(value.dtype)
    weights = _Softmax.apply(torch.cat([words @ prefix_key.transpose(-1, -2), own], -1))
    said = weights[..., :n] @ prefix_value + weights[..., n:] @ word_value
    return torch.cat([seen, said], 2)


def _function(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _function)
