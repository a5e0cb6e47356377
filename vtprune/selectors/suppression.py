"""Highest scores with near-duplicates suppressed (GreedyPrune)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vtprune.core.component import Candidates
from vtprune.selectors.common import required_features, required_scores, tiers
from vtprune.selectors.greedy import GreedySelector, Objective
from vtprune.selectors.similarity import Cosines

RELAX_STEP = 0.02


class GreedySuppression(GreedySelector):
    """Take the token with the highest score, suppress all whose cosine to it exceeds ``threshold``, repeat.

    Maximises the sum of scores under cos(i, j) <= threshold for all kept pairs (GreedyPrune, arXiv 2506.13166, as a
    constrained subset choice solved greedily). Protected tokens, then scores of +inf, are taken first, whatever they
    resemble, and suppress too. The paper does not say what happens when no token is left before the count is reached:

    threshold: the cosine above which a token is suppressed, -1 to 1.
    on_exhaustion: ``fill`` takes the best remaining by score; ``stop`` keeps fewer; ``relax`` raises the threshold by
        ``relax_step`` as often as needed to free a token, and goes on with the raised one (from 1 on it is ``fill``).
    relax_step: acts only with ``on_exhaustion: relax``.

    Tokens with a score of -inf come last, and never under ``stop``.
    """

    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.9
    on_exhaustion: Literal["fill", "stop", "relax"] = "fill"
    relax_step: Annotated[float, Field(gt=0, le=2)] = RELAX_STEP

    @classmethod
    def examples(cls) -> tuple[GreedySuppression, ...]:
        return (
            cls(threshold=0.3),
            cls(threshold=0.3, on_exhaustion="stop"),
            cls(threshold=0.1, on_exhaustion="relax"),
        )

    @model_validator(mode="after")
    def _no_dead_knob(self) -> GreedySuppression:
        if self.on_exhaustion != "relax" and self.relax_step != RELAX_STEP:
            raise ValueError(
                f"relax_step={self.relax_step} has no effect with on_exhaustion={self.on_exhaustion!r}; "
                f"use on_exhaustion='relax' or leave it out"
            )
        return self

    @property
    def count_is_exact(self) -> bool:
        """False if the selector stops when everything left is suppressed."""
        return self.on_exhaustion != "stop"

    def objective(self, candidates: Candidates) -> Objective:
        """The order of scores among the tokens that nothing taken suppresses, then among the rest."""
        return _Suppression(self, candidates)


class _Suppression(Objective):
    """A token's *level* is the number of relaxations that free it: 0 while nothing taken resembles it too much.

    The lowest level goes first, then the highest score. Gains are integers, so there are no near-ties.
    """

    def __init__(self, options: GreedySuppression, candidates: Candidates) -> None:
        self.options = options
        scores = required_scores(candidates, "greedy_suppression")
        best_first = scores.argsort(dim=-1, descending=True, stable=True)
        falling = torch.arange(candidates.vision, 0, -1, device=scores.device, dtype=torch.float64)
        self.rank = torch.empty_like(scores, dtype=torch.float64).scatter(-1, best_first, falling.expand_as(scores))
        self.tier = tiers(candidates.protected, scores)
        self.cosines = Cosines(required_features(candidates, "greedy_suppression"), int(candidates.counts.max()))
        self.nearest = torch.full_like(scores, -torch.inf)
        self.reached = torch.zeros_like(scores[:, :1])
        self.taken_at = torch.zeros_like(scores)

    def gains(self, closed: Tensor) -> Tensor:
        """float64 ``[row, vision]``."""
        return self.rank - torch.maximum(self._levels(), self.reached).double() * self.rank.shape[-1]

    def add(self, picked: Tensor) -> None:
        """Record the level at which the token went, and suppress what resembles it."""
        index = picked.unsqueeze(-1)
        level = self._levels().masked_fill(self.tier != 1, 0).gather(-1, index)
        self.reached = torch.maximum(self.reached, level)
        self.taken_at.scatter_(-1, index, level)
        self.nearest = torch.maximum(self.nearest, self.cosines.of(picked))

    def finish(self, kept: Tensor) -> Tensor:
        """Under ``stop``, give back what was taken after exhaustion."""
        if self.options.on_exhaustion != "stop":
            return kept
        return kept & (self.taken_at == 0) & (self.tier > 0)

    def _levels(self) -> Tensor:
        excess = self.nearest - self.options.threshold
        if self.options.on_exhaustion == "relax":
            return (excess.clamp(0, 1 - self.options.threshold) / self.options.relax_step).ceil()
        return (excess > 0).float()
