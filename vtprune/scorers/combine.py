"""Scorers made of scorers: weighted sum and product."""

from __future__ import annotations

import operator
from itertools import accumulate
from typing import ClassVar, Literal, Self

from pydantic import FiniteFloat, field_validator, model_validator
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.errors import ComponentError
from vtprune.core.recipe import build_name
from vtprune.core.signals import Need, Signals
from vtprune.core.spec import ScorerSpec


class Combination(Scorer):
    """What the combinations share: parts, and scores per head as soon as one part has them."""

    least: ClassVar[int]
    scorers: tuple[ScorerSpec, ...]

    @field_validator("scorers")
    @classmethod
    def _enough_parts(cls, scorers: tuple[Scorer, ...]) -> tuple[Scorer, ...]:
        if len(scorers) < cls.least:
            raise ValueError(f"needs at least {cls.least} scorers to combine, got {len(scorers)}")
        return scorers

    @property
    def granularity(self) -> Literal["token", "head"]:
        return "head" if any(scorer.granularity == "head" for scorer in self.scorers) else "token"

    @property
    def permutation_equivariant(self) -> bool:
        return all(scorer.permutation_equivariant for scorer in self.scorers)

    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(scorer.needs() for scorer in self.scorers))

    def _parts(self, signals: Signals) -> list[Tensor]:
        """float32 scores of each part; token scores get an axis to broadcast over kv_head where another part has it."""
        parts = []
        for place, scorer in enumerate(self.scorers):
            part = scorer.score(signals).float()
            axes = "[batch, kv_head, vision]" if scorer.granularity == "head" else "[batch, vision]"
            if part.ndim != axes.count(",") + 1 or (part.shape[0], part.shape[-1]) != (signals.batch, signals.vision):
                raise ComponentError(
                    f"{self._label(place)} must give scores {axes} with batch {signals.batch} and vision "
                    f"{signals.vision}, got shape {list(part.shape)}"
                )
            spread = self.granularity == "head" and scorer.granularity == "token"
            parts.append(part.unsqueeze(1) if spread else part)
        return parts

    def _label(self, place: int) -> str:
        names = [build_name("scorer", scorer) for scorer in (self, self.scorers[place])]
        return f"part {place} ({names[1]}) of {names[0]}"

    def _checked(self, totals: list[Tensor], cause: str) -> Tensor:
        """The last running total; raises ComponentError naming the part that first made it NaN."""
        if totals[-1].isnan().any():
            place = next(place for place, total in enumerate(totals) if total.isnan().any())
            raise ComponentError(f"{self._label(place)} makes the scores NaN: it is NaN itself, or {cause}")
        return totals[-1]


class WeightedSum(Combination):
    """Weighted sum of other scorers: ``score = sum_j weights[j] * score_j``, in float32.

    scorers: one or more; scores per token are repeated for each KV head if another part scores per head.
    weights: one finite number for each scorer, not all zero; a negative one prefers low scores.
    """

    least: ClassVar[int] = 1
    weights: tuple[FiniteFloat, ...]

    @model_validator(mode="after")
    def _one_weight_each(self) -> WeightedSum:
        if len(self.weights) != len(self.scorers):
            raise ValueError(f"weights must match scorers, got {len(self.weights)} for {len(self.scorers)} scorers")
        if not any(self.weights):
            raise ValueError("weights are all zero, so that every token would score the same")
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        per_head = {"name": "attention", "head_reduction": "none"}
        return (
            cls.model_validate({"scorers": ["similarity", "key_norm"], "weights": [0.3, -2.0]}),
            cls.model_validate({"scorers": [per_head, "similarity", "uniform_grid"], "weights": [1.0, 2.0, 3.0]}),
        )

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, or ``[batch, kv_head, vision]`` if a part scores per head.

        Raises ComponentError if the sum is NaN, naming the part.
        """
        terms = [weight * part for weight, part in zip(self.weights, self._parts(signals), strict=True)]
        return self._checked(list(accumulate(terms)), "it adds opposite infinities or has weight 0 on an infinity")


class Product(Combination):
    """Product of other scorers: ``score = prod_j score_j``, in float32.

    Two negative scores make a positive one, so bring parts to one sign first (see `normalise`).

    scorers: two or more; scores per token are repeated for each KV head if another part scores per head.
    """

    least: ClassVar[int] = 2

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        per_head = {"name": "key_norm", "per_head": True}
        return (
            cls.model_validate({"scorers": ["similarity", "key_norm"]}),
            cls.model_validate({"scorers": ["similarity", per_head]}),
        )

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, or ``[batch, kv_head, vision]`` if a part scores per head.

        Raises ComponentError if the product is NaN, naming the part.
        """
        return self._checked(list(accumulate(self._parts(signals), operator.mul)), "it multiplies 0 by an infinity")
