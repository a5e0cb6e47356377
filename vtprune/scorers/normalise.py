"""Scorers around one scorer: normalised, or with the order reversed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.errors import ComponentError
from vtprune.core.recipe import build_name
from vtprune.core.signals import Need, Signals
from vtprune.core.spec import ScorerSpec


class Wrapper(Scorer):
    """What both share: the needs and the granularity of the scorer inside.

    scorer: the one inside.
    """

    scorer: ScorerSpec

    @property
    def granularity(self) -> Literal["token", "head"]:
        return self.scorer.granularity

    @property
    def permutation_equivariant(self) -> bool:
        return self.scorer.permutation_equivariant

    def needs(self) -> frozenset[Need]:
        return self.scorer.needs()


class Normalise(Wrapper):
    """Another scorer's scores x, normalised over the n surviving vision tokens of each sample (and KV head)::

        min_max:  (x - min) / (max - min)                 in [0, 1]; constant scores give 0
        z_score:  (x - mean) / std, std with divisor n    constant scores give 0
        softmax:  exp(x / temperature) / sum              sums to 1; constant scores give 1/n
        rank:     place from the bottom / (n - 1)         in [0, 1]; ties share their mean rank, all equal give 1/2

    Never across the batch: there the result of a sample would depend on its batch mates.

    method: see above. temperature: acts only with ``method: softmax``.
    """

    method: Literal["min_max", "softmax", "rank", "z_score"]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _temperature_only_with_softmax(self) -> Normalise:
        if self.method != "softmax" and self.temperature != 1.0:
            raise ValueError(f"temperature acts only with method: softmax, but method is {self.method}; remove it")
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        attention, per_head = "attention", {"name": "attention", "head_reduction": "none"}
        return (
            cls.model_validate({"scorer": attention, "method": "min_max"}),
            cls.model_validate({"scorer": per_head, "method": "z_score"}),
            cls.model_validate({"scorer": per_head, "method": "rank"}),
            cls.model_validate({"scorer": attention, "method": "softmax", "temperature": 0.1}),
        )

    def score(self, signals: Signals) -> Tensor:
        """float32, the shape of the scorer inside.

        Raises ComponentError for NaN, and for infinities with any method but ``rank``.
        """
        scores = self.scorer.score(signals).float()
        if scores.shape[-1] == 0:
            return scores
        self._check(scores)
        return {"min_max": min_max, "z_score": z_score, "softmax": self._softmax, "rank": rank}[self.method](scores)

    def _softmax(self, scores: Tensor) -> Tensor:
        return ((scores - scores.amax(dim=-1, keepdim=True)) / self.temperature).softmax(dim=-1)

    def _check(self, scores: Tensor) -> None:
        inside = build_name("scorer", self.scorer)
        if scores.isnan().any():
            raise ComponentError(f"normalise got NaN from scorer {inside!r}")
        if self.method != "rank" and scores.isinf().any():
            raise ComponentError(
                f"normalise with method {self.method} needs finite scores, but scorer {inside!r} gave "
                f"{int(scores.isinf().sum())} infinite ones; method rank can order infinities"
            )


class Negate(Wrapper):
    """Another scorer with its order reversed: ``score = -x``. Infinities change sign: always becomes never."""

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        ranked = {"name": "normalise", "scorer": "random", "method": "rank"}
        return (cls.model_validate({"scorer": "attention"}), cls.model_validate({"scorer": ranked}))

    def score(self, signals: Signals) -> Tensor:
        """float32, the shape of the scorer inside."""
        return -self.scorer.score(signals).float()


def min_max(scores: Tensor) -> Tensor:
    """float ``[..., vision]`` to [0, 1] along the last axis; constant rows give 0."""
    low, high = scores.aminmax(dim=-1, keepdim=True)
    return torch.where(low == high, 0.0, (scores - low) / (high - low))


def z_score(scores: Tensor) -> Tensor:
    """float ``[..., vision]`` to mean 0 and standard deviation 1 along the last axis; constant rows give 0."""
    unit = min_max(scores)  # the same z-scores, and no square under- or overflows
    centred = unit - unit.mean(dim=-1, keepdim=True)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return torch.where(deviation == 0, 0.0, centred / deviation)


def rank(scores: Tensor) -> Tensor:
    """float ``[..., vision]`` to ranks in [0, 1] along the last axis; ties share their mean rank.

    With `below` and `above` the numbers of strictly lower and higher scores, the mean rank over n - 1 is
    1/2 + (below - above) / (2 (n - 1)).
    """
    scores = scores.contiguous()
    vision = scores.shape[-1]
    ascending = scores.sort(dim=-1).values
    below = torch.searchsorted(ascending, scores)
    above = vision - torch.searchsorted(ascending, scores, right=True)
    return 0.5 + (below - above) / (2 * max(vision - 1, 1))
