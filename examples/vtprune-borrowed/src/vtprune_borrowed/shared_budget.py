"""Shared budget: the heads and images of a layer compete for its tokens."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Annotated, Literal

import torch
from einops import reduce
from pydantic import Field
from torch import Tensor

from vtprune.plugin import Allocation, AllocationRequest, Allocator, ComponentError, Need, Signals


class SharedBudget(Allocator):
    """Give each KV head, and each image, as many tokens as it has among the strongest of the whole layer.

    The layer's budget B (tokens per head times heads) is spent on the B largest attention weights of all its heads and
    images together; a head that looks at few tokens keeps few, and what it leaves goes to heads that spread out. First,
    each of them gets its own strongest tokens up to ``floor`` of an even share.

    Ada-KV (arXiv 2407.11550) does this among the heads of a text model, with a safeguard against empty heads. Reading
    the safeguard as tokens set aside for each head before the competition, the share of 0.2, images as further
    competitors (``scope: image``), the mean over query heads that share a KV head, and the row of one query are our
    choices. At sites that drop whole tokens there is one head, the mean over all: then images compete, and a stage with
    ``scope: joint`` gets what ``uniform`` gives a single layer.

    B is rounded down, never exceeded and, up to that, spent in full, as far as tokens survive.

    floor: share of an even split that every head and image is sure of, rounded down.
    query: whose attention is read: the ``last`` prompt token, or the mean over ``text_after_vision`` or all ``text``.

    Reports ``largest``: the most that one head and image keeps, as a share of what survives there, ``[batch]``.
    """

    floor: Annotated[float, Field(ge=0, le=1)] = 0.2
    query: Literal["last", "text_after_vision", "text"] = "last"

    @property
    def count_is_static(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", self.query)})

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        """int64 ``[batch, kv_head, segment]`` at ``.kv`` sites, else ``[batch, segment]``.

        Raises ValueError without a target, ComponentError if query heads do not divide into KV heads.
        """
        if request.target is None:
            raise ValueError("shared_budget has no budget to share")
        weights = self._weights(signals, request.kv_heads)
        heads, vision = weights.shape[1:]
        total = min(math.floor(request.target * heads), heads * vision)
        even = Fraction(total, heads * vision) if vision else Fraction(0)
        segments = [slice(*bounds) for bounds in pairwise(accumulate(request.sizes, initial=0))]
        sure = weights.clone()
        for segment, size in zip(segments, request.sizes, strict=True):
            strongest = weights[..., segment].argsort(dim=-1, descending=True, stable=True)
            set_aside = strongest[..., : math.floor(Fraction(repr(self.floor)) * even * size)]
            sure[..., segment] = sure[..., segment].scatter(-1, set_aside, torch.inf)
        winners = sure.flatten(1).argsort(dim=-1, descending=True, stable=True)[:, :total]
        won = torch.zeros_like(sure, dtype=torch.int64).flatten(1).scatter(1, winners, 1).view_as(sure)
        counts = torch.stack([won[..., segment].sum(-1) for segment in segments], dim=-1).cpu()
        largest = (counts / torch.tensor(request.sizes).clamp(min=1)).flatten(1).amax(-1)
        return Allocation(counts if request.kv_heads else counts.squeeze(1), {"largest": largest})

    def _weights(self, signals: Signals, kv_heads: int | None) -> Tensor:
        """float32 ``[batch, kv_head, vision]``; a single head, the mean of all, where whole tokens go."""
        rows = signals.attention(self.query).float()
        heads = kv_heads or 1
        if rows.shape[1] % heads:
            raise ComponentError(
                f"shared_budget needs query heads in equal groups, one per KV head, but the model has {rows.shape[1]} "
                f"query heads and {heads} KV heads"
            )
        return reduce(rows, "batch (kv_head group) vision -> batch kv_head vision", "mean", kv_head=heads)
