"""Rewriting a decoder layer's attention mask for a compact problem.

transformers builds one mask in *logical* coordinates, as if nothing had been pruned. The mask of the compact problem is
gathered from it, so sliding windows, prefixes and padding keep their meaning in terms of the original positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Queries:
    """The tokens entering a layer. index: int64 ``[batch, token]``, which of the forward's new tokens each one is;
    positions: int64 ``[batch, token]``, logical; valid: bool ``[batch, token]``; all_valid: valid.all(), known on the
    host; moved: whether they differ from the new tokens as they came."""

    index: Tensor
    positions: Tensor
    valid: Tensor
    all_valid: bool
    moved: bool


@dataclass(frozen=True)
class Slots:
    """Cached keys. positions: int64, logical, and valid: bool, both ``[batch, slot]`` or ``[batch, kv_head, slot]``;
    all_valid: valid.all(), known on the host."""

    positions: Tensor
    valid: Tensor
    all_valid: bool

    @property
    def per_head(self) -> bool:
        """Whether KV heads hold different tokens."""
        return self.positions.dim() == 3

    def followed_by(self, new: Slots) -> Slots:
        """These slots and then ``new`` ones ``[batch, slot]``, which every KV head holds."""
        positions, valid = new.positions, new.valid
        if self.per_head:
            shape = (*self.positions.shape[:2], -1)
            positions, valid = positions[:, None].expand(shape), valid[:, None].expand(shape)
        return Slots(
            torch.cat([self.positions, positions], -1),
            torch.cat([self.valid, valid], -1),
            self.all_valid and new.all_valid,
        )


def rewrite(
    mask: Tensor | None,
    queries: Queries,
    slots: Slots,
    *,
    offset: int,
    groups: int,
    additive: torch.dtype | None,
    flash: bool,
    causal: bool,
    window: int | None,
    explicit: bool = False,
) -> Tensor | None:
    """The mask of the compact problem.

    mask: the layer's mask: None, ``[batch, 1, token, key]`` bool or additive float, or ``[batch, key]`` (flash).
    slots: every key the layer will see, the new ones included. offset: logical position of the mask's first column.
    groups: query heads per KV head. additive: dtype of an additive mask to build when ``mask`` is None, or None for
    bool. explicit: whether the kernel could not work out causality by itself, because some keys have no query.
    Returns None when no mask is needed, ``[batch, slot]`` for flash, else ``[batch, 1|head, token, slot]``.
    """
    visible = slots.valid
    if offset:
        visible = visible & (slots.positions >= offset)
    if mask is None and slots.all_valid and not offset and not explicit:
        return None
    if flash and (mask is None or mask.dim() == 2):
        if slots.per_head:
            slots = Slots(slots.positions[:, 0], slots.valid[:, 0], slots.all_valid)
            visible = visible[:, 0]
        if mask is None:
            return visible
        return mask.bool().gather(1, (slots.positions - offset).clamp(min=0)) & visible
    at = slots.positions if slots.per_head else slots.positions[:, None]
    seen = visible if slots.per_head else visible[:, None]
    if mask is None:
        rows = queries.positions[:, None, :, None]
        keys = at[:, :, None, :]
        allowed = keys <= rows if causal else torch.ones_like(keys <= rows)
        if window is not None:
            allowed = allowed & (keys > rows - window)
        result = allowed & seen[:, :, None, :]
    else:
        result = _gather(mask, queries, at - offset, seen)
    if not queries.all_valid:
        result = _let_fillers_see_themselves(result, queries.valid)
    if result.dtype == torch.bool and additive is not None:
        result = torch.zeros(result.shape, dtype=additive, device=result.device).masked_fill(
            ~result, torch.finfo(additive).min
        )
    return result.repeat_interleave(groups, 1) if slots.per_head and groups > 1 else result


def _gather(mask: Tensor, queries: Queries, columns: Tensor, seen: Tensor) -> Tensor:
    batch, heads = queries.index.shape[0], columns.shape[1]
    mask = mask.expand(batch, *mask.shape[1:])
    if queries.moved:
        rows = queries.index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        mask = mask.gather(2, rows)
    columns = columns.clamp(min=0)[:, :, None, :].expand(-1, -1, mask.shape[2], -1)
    mask = mask.expand(-1, heads, -1, -1).gather(3, columns)
    seen = seen[:, :, None, :]
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


def _let_fillers_see_themselves(mask: Tensor, valid: Tensor) -> Tensor:
    """A filler row would attend to nothing, which some kernels answer with NaN; its own key is finite."""
    new = valid.shape[1]
    own = torch.eye(new, dtype=torch.bool, device=mask.device) & ~valid[:, None, :, None]
    own = torch.nn.functional.pad(own, (mask.shape[-1] - new, 0))
    return mask | own if mask.dtype == torch.bool else mask.masked_fill(own, 0.0)
