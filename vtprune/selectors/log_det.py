"""Greedy log-determinant: a set that spans much volume (MAP of a determinantal point process)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vtprune.core.component import Candidates
from vtprune.selectors.common import relative_weights, required_features, required_scores
from vtprune.selectors.greedy import TIE, GreedySelector, Objective
from vtprune.selectors.similarity import Cosines

QUALITY_FLOOR = 1e-2
EXHAUSTED = 1e-5
"""A token is explained by the kept ones once less than this share of its own variance is left: float32 noise."""


def log_det(kernel: Tensor, kept: Tensor, ridge: float) -> float:
    """log det(I + kernel_S / ridge); monotone submodular for every ridge > 0, and 0 for the empty set.

    kernel: float ``[vision, vision]``, positive semi-definite; kept: bool ``[vision]``.
    """
    part = kernel.double()[kept][:, kept]
    return float(torch.linalg.slogdet(torch.eye(len(part), dtype=part.dtype, device=part.device) + part / ridge)[1])


class LogDet(GreedySelector):
    """Greedily maximise log det(ridge I + L_S) with L_ij = q_i cos(i, j) q_j, by incremental Cholesky updates.

    Chen, Zhang and Zhou (2018) give the updates; CDPruner (arXiv 2506.10967) uses ``ridge: 0`` with text relevance as
    quality. When the kept tokens explain all others (duplicates, low rank), the best remaining by quality follow.

    ridge: above 0, the same order as log det(I + L_S / ridge), which is monotone submodular, so that the greedy set
        reaches at least 1 - 1/e of the optimum; 0 is the plain determinant, which has no such bound and runs dry at the
        rank of L. The default is small beside the variances (up to 1) and large beside their float32 noise.
    weight: ``scores`` sets q to the scores, min-max scaled per row into [0.01, 1], to the power ``strength``;
        ``none`` sets q to 1: diversity alone.
    strength: how much quality counts against diversity.
    """

    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    weight: Literal["scores", "none"] = "scores"
    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @classmethod
    def examples(cls) -> tuple[LogDet, ...]:
        return (cls(), cls(ridge=0.0, strength=2.0), cls(weight="none"))

    @model_validator(mode="after")
    def _no_dead_knob(self) -> LogDet:
        if self.weight == "none" and self.strength != 1.0:
            raise ValueError(f"strength={self.strength} has no effect with weight='none'; leave one of them out")
        return self

    @property
    def uses_scores(self) -> bool:
        """Whether ``weight`` is ``scores``."""
        return self.weight == "scores"

    def objective(self, candidates: Candidates) -> Objective:
        """Log-determinant of the weighted kernel."""
        features = required_features(candidates, "log_det")
        if self.weight == "scores":
            scores = required_scores(candidates, "log_det")
            quality = relative_weights(scores, QUALITY_FLOOR).pow(self.strength)
        else:
            quality = torch.ones_like(features[..., 0])
        steps = int(candidates.counts.max())
        return _Volume(Cosines(features, steps), quality, self.ridge, steps)


class _Volume(Objective):
    """Adding token i multiplies the determinant by what is left of its variance; its logarithm is the gain."""

    def __init__(self, cosines: Cosines, quality: Tensor, ridge: float, steps: int) -> None:
        self.cosines = cosines
        self.quality = quality
        self.variance = quality.square() + ridge
        self.left = self.variance.clone()
        self.tolerance = TIE * self.variance
        self.factor = quality.new_zeros(len(quality), steps, quality.shape[-1])
        self.step = 0

    def gains(self, closed: Tensor) -> Tensor:
        """float32 ``[row, vision]``: variance left, or below all of those, ordered by quality, where none is."""
        return torch.where(self._alive(), self.left, self.quality - 2)

    def add(self, picked: Tensor) -> None:
        """Append one row to the Cholesky factor and take what it explains from the variances."""
        index = picked.unsqueeze(-1)
        kernel = self.quality * self.quality.gather(-1, index) * self.cosines.of(picked)
        known = self.factor[:, : self.step]
        at_picked = known.gather(-1, index.unsqueeze(-1).expand(-1, self.step, 1))
        explained = torch.bmm(at_picked.mT, known).squeeze(-2)
        useful = self._alive().gather(-1, index)
        scale = torch.where(useful, self.left.gather(-1, index), 1).rsqrt()
        row = torch.where(useful, (kernel - explained) * scale, 0)
        self.factor[:, self.step] = row
        self.left = self.left - row.square()
        self.step += 1

    def _alive(self) -> Tensor:
        return self.left > EXHAUSTED * self.variance
