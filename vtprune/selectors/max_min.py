"""Greedy max-min distance: the most diverse set (DivPrune)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vtprune.core.component import Candidates
from vtprune.selectors.common import required_features
from vtprune.selectors.greedy import ENTRIES, TIE, GreedySelector, Objective
from vtprune.selectors.similarity import Products, finite_norms, unit_vectors


class MaxMin(GreedySelector):
    """Take, again and again, the token whose nearest kept token is farthest (DivPrune, arXiv 2503.02175).

    Scores play no part, save that infinite ones mean always and never where a union passes them on. Protected tokens
    seed the set; without any, ``start`` makes the first pick.

    metric: ``cosine`` (DivPrune: 1 - cos, which orders like the distance of unit vectors; zero vectors coincide), or
        ``euclidean``.
    start: ``farthest_neighbour`` takes the token whose nearest neighbour is farthest (DivPrune; reads every pair
        once), ``farthest_from_mean`` the one farthest from the mean token (linear in the number of tokens).
    """

    metric: Literal["cosine", "euclidean"] = "cosine"
    start: Literal["farthest_neighbour", "farthest_from_mean"] = "farthest_neighbour"

    @classmethod
    def examples(cls) -> tuple[MaxMin, ...]:
        return (
            cls(),
            cls(start="farthest_from_mean"),
            cls(metric="euclidean"),
            cls(metric="euclidean", start="farthest_from_mean"),
        )

    @property
    def uses_scores(self) -> bool:
        """False: only distances count."""
        return False

    def objective(self, candidates: Candidates) -> Objective:
        """Distance to the nearest kept token."""
        features = required_features(candidates, "max_min")
        if self.metric == "cosine":
            points = unit_vectors(features)
        else:
            largest = finite_norms(features).amax(-2, keepdim=True)
            points = features / largest.masked_fill(largest == 0, 1)
            points = points - points.mean(-2, keepdim=True)
        return _Spread(points, self.start, candidates)


class _Spread(Objective):
    """Squared distances throughout: the same order, and no cancellation that a square root would magnify."""

    def __init__(self, points: Tensor, start: str, candidates: Candidates) -> None:
        self.points = points
        self.squares = points.square().sum(-1)
        self.tolerance = TIE * self.squares.amax(-1, keepdim=True)
        self.distance: Tensor | None = None
        self.start = start
        self.seeded = bool(candidates.protected.any(-1)[candidates.counts > 0].all())
        every_pair = start == "farthest_neighbour" and not self.seeded and candidates.vision**2 <= ENTRIES
        self.products = Products(points, candidates.vision if every_pair else int(candidates.counts.max()))

    def gains(self, closed: Tensor) -> Tensor:
        """float32 ``[row, vision]``: squared distance to the nearest kept token, or how well a token starts."""
        if self.distance is not None:
            return self.distance
        if self.seeded:
            return torch.zeros_like(self.squares)
        return self._isolation() if self.start == "farthest_neighbour" else self._eccentricity()

    def add(self, picked: Tensor) -> None:
        """Measure every token against the new one."""
        own = self.squares.gather(-1, picked.unsqueeze(-1))
        distance = torch.sub(self.squares + own, self.products.of(picked), alpha=2)
        self.distance = distance if self.distance is None else torch.minimum(self.distance, distance)

    def _isolation(self) -> Tensor:
        """Squared distance to the nearest other token."""
        nearest = torch.empty_like(self.squares)
        for start, products in self.products.blocks():
            size = products.shape[-2]
            others = torch.sub(self.squares[:, None], products, alpha=2)
            others.diagonal(offset=start, dim1=-2, dim2=-1).fill_(torch.finfo(others.dtype).max / 2)
            nearest[:, start : start + size] = others.amin(-1)
        return nearest + self.squares

    def _eccentricity(self) -> Tensor:
        """Squared distance to the mean token, up to a constant."""
        mean = self.points.mean(-2).unsqueeze(-1)
        return self.squares - 2 * torch.bmm(self.points, mean).squeeze(-1)
