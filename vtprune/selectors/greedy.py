"""The greedy loop that the set selectors share: one pick a step in every row, by the largest gain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from vtprune.core.component import Candidates, Selector
from vtprune.selectors.common import tiers

TIE = 1e-6
"""Gains closer than this, relative to the scale of an objective, are equal: float32 rounding must not decide between
duplicates, so the lower index does."""
ENTRIES = 2**26
"""Rows are worked on together as long as their similarity matrices hold no more numbers than this (256 MiB)."""


class Objective(ABC):
    """What a greedy selector maximises: gains now, and an update once a token is taken.

    tolerance: gains within it of the best one are ties; a number, or broadcastable to ``[row, vision]``.
    """

    tolerance: Tensor | float = 0.0

    @abstractmethod
    def gains(self, closed: Tensor) -> Tensor:
        """Finite float ``[row, vision]``, not read where ``closed`` (bool ``[row, vision]``)."""

    @abstractmethod
    def add(self, picked: Tensor) -> None:
        """Take one token in each row, int64 ``[row]``. Rows already complete are passed too; what happens to their
        state is of no consequence."""

    def finish(self, kept: Tensor) -> Tensor:
        """The last word on the kept set, bool ``[row, vision]``."""
        return kept


def greedy(objective: Objective, priority: Tensor, counts: Tensor) -> Tensor:
    """bool ``[row, vision]``: take the token of largest gain, ``counts`` (int64 ``[row]``, CPU) times in each row.

    priority: int8 ``[row, vision]``; see `tiers`. Ties go to the lower index.
    """
    steps = int(counts.max())
    left = priority.clone()
    order = []
    for _ in range(steps):
        closed = left < left.amax(-1, keepdim=True)
        gains = objective.gains(closed).masked_fill(closed, -torch.inf)
        tied = gains >= gains.amax(-1, keepdim=True) - objective.tolerance
        picked = tied.byte().argmax(-1)
        objective.add(picked)
        left.scatter_(-1, picked.unsqueeze(-1), -1)
        order.append(picked)
    wanted = torch.arange(steps) < counts.unsqueeze(-1)
    kept = torch.zeros_like(left, dtype=torch.bool).scatter(-1, torch.stack(order, -1), wanted.to(left.device))
    return objective.finish(kept)


class GreedySelector(Selector):
    """A selector that compares tokens and picks them one by one.

    feature: what is compared: the site's ``features``, or the ``keys`` or ``values`` of the nearest attention layer.
    """

    feature: Literal["features", "keys", "values"] = "features"

    @property
    def feature_source(self) -> Literal["features", "keys", "values"]:
        """The option ``feature``."""
        return self.feature

    @abstractmethod
    def objective(self, candidates: Candidates) -> Objective:
        """A fresh objective for these candidates."""

    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``: exactly the counts, unless ``count_is_exact`` is False."""
        kept = torch.zeros_like(candidates.protected)
        if not candidates.counts.any():
            return kept
        together = max(1, ENTRIES // candidates.vision**2)
        for start in range(0, len(candidates.counts), together):
            part = _rows(candidates, slice(start, start + together))
            if part.counts.any():
                priority = tiers(part.protected, part.scores)
                kept[start : start + together] = greedy(self.objective(part), priority, part.counts)
        return kept


def _rows(candidates: Candidates, rows: slice) -> Candidates:
    return replace(
        candidates,
        counts=candidates.counts[rows],
        scores=None if candidates.scores is None else candidates.scores[rows],
        features=None if candidates.features is None else candidates.features[rows],
        protected=candidates.protected[rows],
    )
