"""A scorer with a scorer inside, an allocator, a selector and a reducer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from vtprune.plugin import (
    Allocation,
    AllocationRequest,
    Allocator,
    Candidates,
    Merged,
    Need,
    Reducer,
    Scorer,
    ScorerSpec,
    Selector,
    Signals,
)


class Lean(Scorer):
    """Another scorer plus a share of the mean norm of each token's features.

    inner: the other scorer. lean: the share. norms: orders of the norms, each 1 or more. keep: which end is kept.
    """

    revision: ClassVar[int] = 2

    inner: ScorerSpec
    lean: FiniteFloat = 0.5
    norms: Annotated[tuple[Annotated[float, Field(ge=1, allow_inf_nan=False)], ...], Field(min_length=1)] = (2.0,)
    keep: Literal["high", "low"] = "high"

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(inner="uniform_grid"), cls(inner="key_norm", lean=-2.0, norms=(1.0, 3.0), keep="low"))  # type: ignore[arg-type]

    @property
    def granularity(self) -> Literal["token", "head"]:
        return self.inner.granularity

    @property
    def permutation_equivariant(self) -> bool:
        return self.inner.permutation_equivariant

    def needs(self) -> frozenset[Need]:
        return self.inner.needs() | {Need("features")}

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, or ``[batch, kv_head, vision]`` where the inner scorer scores per head."""
        features = signals.features().float()
        norms = torch.stack([torch.linalg.vector_norm(features, ord=order, dim=-1) for order in self.norms]).mean(0)
        scores = self.inner.score(signals).float() + self.lean * (norms.unsqueeze(1) if self._per_head else norms)
        return scores if self.keep == "high" else -scores

    @property
    def _per_head(self) -> bool:
        return self.granularity == "head"


class InTurn(Allocator):
    """Grant whole images one after another until the budget is spent.

    order: which image comes first, the first or the last of the prompt.
    """

    order: Literal["first", "last"] = "first"

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        """int64 ``[batch, segment]``; where the budget is no whole number, the first layers get one token more."""
        assert request.target is not None
        left = request.target.numerator // request.target.denominator
        spare = (request.target - left) * sum(request.spans)
        before = request.spans[: request.layers.index(request.layer) + 1]
        left += sum(before) <= spare
        counts = [0] * len(request.sizes)
        places = range(len(counts)) if self.order == "first" else reversed(range(len(counts)))
        for place in places:
            counts[place] = min(left, request.sizes[place])
            left -= counts[place]
        return Allocation(torch.tensor(counts).repeat(signals.batch, 1))


class Middle(Selector):
    """Keep the tokens whose rank is nearest to a quantile; of two equally near the lower rank.

    at: 0 is the lowest score, 1 the highest.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {
        "higher_scores_are_kept": "it is there to keep what lies in the middle",
        "of_duplicates_the_first_is_kept": "of equal scores it keeps those in the middle",
        "ties_go_to_the_lower_index": "of equal scores it keeps those in the middle",
    }

    at: Annotated[float, Field(ge=0, le=1)] = 0.5

    @property
    def rank_only(self) -> bool:
        return True

    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``: exactly the counts."""
        assert candidates.scores is not None
        scores = candidates.scores
        rank = scores.argsort(dim=-1, stable=True).argsort(-1).double()
        away = (rank - self.at * (candidates.vision - 1)).abs()
        away = away.masked_fill(scores == torch.inf, -1).masked_fill(scores == -torch.inf, torch.inf)
        order = away.masked_fill(candidates.protected, -2).argsort(dim=-1, stable=True)
        first = torch.arange(candidates.vision, device=scores.device) < candidates.counts.to(scores.device)[:, None]
        return torch.zeros_like(candidates.protected).scatter(-1, order, first)


class Blur(Reducer):
    """Mix a share of the mean of the removed tokens into every kept one.

    share: 0 leaves the kept tokens as they are.
    """

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"hidden"})

    share: Annotated[float, Field(ge=0, le=1)] = 0.25

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged:
        """Sample by sample, in float32 or better; the kept tokens share the removed ones' sizes evenly."""
        merged, grown = features.clone(), sizes.clone()
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        for sample, kept in enumerate(keep):
            if self.share and kept.any() and not kept.all():
                mean = exact[sample, ~kept].mean(0)
                merged[sample, kept] = torch.lerp(exact[sample, kept], mean, self.share).to(features.dtype)
                grown[sample, kept] += sizes[sample, ~kept].sum() / kept.sum()
        return Merged(merged, grown)
