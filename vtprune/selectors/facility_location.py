"""Greedy facility location: the set that covers all tokens best."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vtprune.core.component import Candidates
from vtprune.selectors.common import relative_weights, required_features, required_scores
from vtprune.selectors.greedy import TIE, GreedySelector, Objective
from vtprune.selectors.similarity import Cosines

WEIGHT_FLOOR = 1e-2


def coverage(similarity: Tensor, weights: Tensor, kept: Tensor) -> float:
    """f(S) = sum_i w_i max_{j in S} similarity_ij, with f of the empty set 0; monotone submodular.

    similarity: float ``[vision, vision]``, at least 0; weights: float ``[vision]``; kept: bool ``[vision]``.
    """
    if not kept.any():
        return 0.0
    return float((weights.double() * similarity.double()[:, kept].amax(-1)).sum())


class FacilityLocation(GreedySelector):
    """Greedily maximise how well every token is represented by the most similar kept one; see `coverage`.

    Monotone submodular, so the greedy set reaches at least 1 - 1/e of the optimum (Nemhauser, Wolsey and Fisher,
    1978). Needs the whole similarity matrix: vision^2 numbers a row.

    similarity: ``shifted`` is (1 + cos) / 2; ``relu`` is max(cos, 0), where opposite tokens represent nothing.
    weight: ``scores`` makes covering a token worth its score, min-max scaled per row into [0.01, 1]; ``none`` makes
        all tokens equal.
    """

    similarity: Literal["shifted", "relu"] = "shifted"
    weight: Literal["scores", "none"] = "scores"

    @classmethod
    def examples(cls) -> tuple[FacilityLocation, ...]:
        return (cls(), cls(similarity="relu", weight="none"))

    @property
    def uses_scores(self) -> bool:
        """Whether ``weight`` is ``scores``."""
        return self.weight == "scores"

    def objective(self, candidates: Candidates) -> Objective:
        """Weighted coverage."""
        features = required_features(candidates, "facility_location")
        similarity = Cosines(features, reads=0).all()
        similarity = similarity.add_(1).div_(2) if self.similarity == "shifted" else similarity.clamp_(min=0)
        if self.weight == "scores":
            weights = relative_weights(required_scores(candidates, "facility_location"), WEIGHT_FLOOR)
        else:
            weights = torch.ones_like(features[..., 0])
        return _Coverage(similarity, weights)


class _Coverage(Objective):
    """Lazy gains (Minoux, 1978): a gain never grows, so an old one is an upper bound, and only those that could win
    are computed anew, in batches of doubling size."""

    tolerance: Tensor

    def __init__(self, similarity: Tensor, weights: Tensor) -> None:
        self.similarity = similarity
        self.weights = weights.unsqueeze(-1)
        self.each = torch.arange(len(similarity), device=similarity.device)
        self.covered = torch.zeros_like(weights)
        self.bounds = torch.bmm(similarity, self.weights).squeeze(-1)
        self.tolerance = TIE * weights.sum(-1, keepdim=True)

    def gains(self, closed: Tensor) -> Tensor:
        """float32 ``[row, vision]``: exact wherever a token ties with the best or beats it, else an upper bound."""
        stale = ~closed
        size = min(16, closed.shape[-1])
        while True:
            best = self.bounds.masked_fill(stale | closed, 0).amax(-1, keepdim=True)
            rivals = self.bounds.masked_fill(~stale, -torch.inf)
            if not (rivals.amax(-1, keepdim=True) > torch.maximum(best - self.tolerance, self.tolerance)).any():
                return self.bounds
            index = rivals.topk(size).indices
            self.bounds.scatter_(-1, index, self._exact(index))
            stale.scatter_(-1, index, False)
            size = min(2 * size, closed.shape[-1])

    def add(self, picked: Tensor) -> None:
        """Cover every token at least as well as the new one does."""
        self.covered = torch.maximum(self.covered, self.similarity[self.each, picked])

    def _exact(self, index: Tensor) -> Tensor:
        """Gains of the tokens ``index``, int64 ``[row, some]``."""
        improvement = (self.similarity[self.each.unsqueeze(-1), index] - self.covered.unsqueeze(-2)).clamp_(min=0)
        return torch.bmm(improvement, self.weights).squeeze(-1)
