"""Reattention: three retention levels by how much a layer looks at the image (PLPHP)."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from vtprune.core.budget import round_half_up
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.signals import Need, Signals, TextTokens

if TYPE_CHECKING:
    from vtprune.core.budget import Budget

Share = Annotated[float, Field(ge=0, le=1)]


class Reattention(Allocator):
    """PLPHP's layer-level retention rate (arXiv 2502.14504), worked out per sample while the prompt is read.

    A layer's vision attention score gamma is the attention mass that the chosen query rows pay to all surviving vision
    tokens of the sample, averaged over the query heads. The layer keeps ``r + delta`` of the prompt's vision tokens if
    gamma >= alpha, ``r - delta`` if gamma < beta, and r otherwise, clamped to 0..1. Each image j keeps
    ``max(1, floor(rate * |V_j|))`` of its tokens, never more than survive. All heads of a layer share the counts; which
    tokens a head keeps is the scorer's affair.

    The three-level rule is known from several independent summaries of the paper, whose own text could not be read. The
    query row, the mean over heads, the rounding, the minimum of one token per image, the clamping and all defaults are
    our choices, NOT confirmed by the paper. `vtprune.calibrate_reattention` fits alpha and beta to a model instead.

    rate: base retention r; None takes the stage's budget, as a share of the prompt's vision tokens.
    delta: how far the other two levels lie from r.
    alpha, beta: thresholds on gamma, alpha >= beta.
    query: whose attention is read: the ``last`` prompt token, or the mean over ``text_after_vision`` or all ``text``.
    rounding: ``floor``, or ``half_up`` for the nearest integer. Rates are exact decimals: 0.7 of 10 is 7.

    Reports ``vision_attention`` (gamma) and ``retention`` (the layer's rate), each ``[batch]``.
    """

    rate: Share | None = None
    delta: Share = 0.3
    alpha: Share = 0.25
    beta: Share = 0.1
    query: TextTokens = "last"
    rounding: Literal["floor", "half_up"] = "floor"

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Reattention:
        if self.alpha < self.beta:
            raise ValueError(
                f"alpha={self.alpha} is below beta={self.beta}; layers at or above alpha keep more and layers below "
                f"beta keep less, so alpha must be at least beta (swapped?)"
            )
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(rate=0.4), cls(rate=0.25, query="text", rounding="half_up"))

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", self.query)})

    @property
    def count_is_static(self) -> bool:
        return False

    def budget_problem(self, budget: Budget | None) -> str | None:
        if self.rate is None and budget is None:
            return "needs the base retention: give the stage a budget (e.g. `budget: 0.4`) or the allocator a rate"
        if self.rate is not None and budget is not None:
            return f"rate={self.rate} and the stage's budget ({budget}) both set the base retention; remove one of them"
        return None

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        """int64 ``[batch, segment]``; raises ValueError if there is neither a rate nor a target."""
        base = self._base(request)
        delta = _decimal(self.delta)
        more, less = min(Fraction(1), base + delta), max(Fraction(0), base - delta)
        gamma = signals.attention(self.query).sum(-1).mean(-1).cpu()
        rates = [more if g >= self.alpha else less if g < self.beta else base for g in gamma.tolist()]
        images = list(zip(request.original, request.sizes, strict=True))
        counts = [[min(alive, max(1, self._round(rate * size))) for size, alive in images] for rate in rates]
        return Allocation(
            torch.tensor(counts, dtype=torch.int64).reshape(signals.batch, len(request.sizes)),
            {"vision_attention": gamma, "retention": torch.tensor([float(rate) for rate in rates])},
        )

    def _base(self, request: AllocationRequest) -> Fraction:
        if self.rate is not None:
            return _decimal(self.rate)
        if request.target is None:
            raise ValueError("reattention has neither a rate nor a budget")
        if request.budget is not None and request.budget.unit == "keep_ratio":
            return request.budget.exact
        return min(Fraction(1), request.target / max(1, sum(request.original)))

    def _round(self, count: Fraction) -> int:
        return math.floor(count) if self.rounding == "floor" else round_half_up(count)


@cache
def _decimal(value: float) -> Fraction:
    """The number as it was written, free of binary rounding."""
    return Fraction(repr(value))
