"""Reading a vision tower: from its rows of attention and features to the language model's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vtprune.core.engine.attention import attention_rows, is_causal
from vtprune.core.errors import UnsupportedModeError, UnsupportedModelError


def returned_features(output: Any) -> tuple[Tensor, ...]:
    """What ``get_image_features`` returned, as one float ``[vision, dim]`` per image, tile or sample.

    Families return an output object, a tensor or a list; ``[image, vision, dim]`` or ``[vision, dim]`` each.
    """
    found = getattr(output, "pooler_output", output)
    if isinstance(found, Tensor):
        found = found if found.dim() == 3 else [found]
    if not all(isinstance(tensor, Tensor) and tensor.dim() >= 2 for tensor in found):
        raise UnsupportedModelError(
            f"get_image_features returned {type(output).__name__}, in which no features [vision, dim] were found"
        )
    return tuple(tensor.flatten(0, -2) for tensor in found)


def received_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
    which: str,
    cls_row: int | None,
) -> Tensor:
    """Attention of a vision layer, float32 ``[batch, head, key]``: the CLS row, or what each key receives on average
    from the rows that may see it (all but the CLS row, and padding, which no row sees)."""
    batch, length = query.shape[0], query.shape[2]
    if which == "cls":
        rows = torch.full((batch, 1), cls_row or 0, device=query.device)
    else:
        rows = torch.arange(length, device=query.device).expand(batch, -1)
        if cls_row is not None:
            rows = rows[:, rows[0] != cls_row]
    counted = torch.ones_like(rows, dtype=torch.bool)
    allowed = None
    if which == "received" and mask is not None and mask.dim() == 4:
        allowed = (mask if mask.dtype == torch.bool else mask == 0).expand(batch, -1, -1, -1)
        counted = allowed.any(2).any(1).gather(1, rows)
    weights = counted / counted.sum(1, keepdim=True).clamp(min=1)
    causal = is_causal(module, kwargs) and mask is None
    with torch.no_grad():
        scaling = kwargs.get("scaling")
        found = attention_rows(query, key, mask, rows, weights, scaling=scaling, causal=causal)
        if allowed is not None:
            index = rows[:, None, :, None].expand(-1, allowed.shape[1], -1, allowed.shape[3])
            seen = (allowed.gather(2, index) & counted[:, None, :, None]).sum(2)
            found = found * (counted.sum(1)[:, None, None] / seen.clamp(min=1))
    return found


def mean_rows(calls: Sequence[Tensor], rows: Tensor) -> Tensor:
    """float32 ``[head, vision]``: the mean over the rows that make up a token.

    calls: ``[batch, head, key]`` of every kernel call of one vision layer; rows: int64 ``[vision, unit]``. A separator
    (rows of -1) gets the mean of the tokens that have patches, which must be rows of the same image.
    """
    if not calls:
        raise UnsupportedModeError(
            "the attention of a vision layer passed by unseen, because the attention implementation of the vision "
            "tower was changed inside the with-block; leave it, change the implementation, and bind the recipe anew"
        )
    sequence = torch.cat([rearrange(call, "batch head key -> head (batch key)") for call in calls], dim=-1)
    rows = rows.to(sequence.device)
    tokens = sequence[:, rows.clamp(min=0)].mean(-1)
    separators = (rows < 0).any(1)
    if bool(separators.any()) and not bool(separators.all()):
        tokens = torch.where(separators, tokens[:, ~separators].mean(1, keepdim=True), tokens)
    return tokens


def tokens_of(calls: Sequence[Tensor], rows: Tensor) -> Tensor:
    """float ``[vision, unit, dim]``: the projector's input of every token; zeros for separators.

    calls: ``[..., dim]`` of every call of the projector; rows: int64 ``[vision, unit]``.
    """
    sequence = torch.cat([call.reshape(-1, call.shape[-1]) for call in calls])
    rows = rows.to(sequence.device)
    return sequence[rows.clamp(min=0)] * (rows >= 0)[..., None].to(sequence.dtype)
