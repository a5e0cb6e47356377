"""One selector for a share of the count, another one for the rest."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vtprune.core.budget import round_half_up
from vtprune.core.component import Candidates, Selector
from vtprune.core.spec import SelectorSpec


class Union(Selector):
    """``first`` keeps ``share`` of the count (rounded, halves upwards), ``second`` adds to it until the count is full.

    The second sees what the first kept as protected tokens, so a diversity selector looks for tokens unlike those
    (VisPruner combines important and diverse tokens in this spirit). Protected tokens are part of
    the first share, which grows if it cannot hold them. Selectors nest to any depth.

    first, second: selectors, by name or with parameters.
    share: of the count, 0 to 1, that ``first`` keeps.
    """

    first: SelectorSpec
    second: SelectorSpec
    share: Annotated[float, Field(ge=0, le=1)]

    @classmethod
    def examples(cls) -> tuple[Union, ...]:
        nested = {"name": "union", "share": 0.3, "first": "top_k", "second": "facility_location"}
        return tuple(
            cls.model_validate(parts)
            for parts in (
                {"first": "top_k", "second": "max_min", "share": 0.5},
                {"first": nested, "second": "greedy_suppression", "share": 0.7},
                {"first": {"name": "threshold", "value": 0.9}, "second": "top_k", "share": 0.8},
            )
        )

    @model_validator(mode="after")
    def _one_feature_source(self) -> Union:
        sources = [self.first.feature_source, self.second.feature_source]
        if None not in sources and sources[0] != sources[1]:
            raise ValueError(
                f"first compares {sources[0]!r} and second {sources[1]!r}, but a stage has one feature source; "
                f"set the same 'feature' in both"
            )
        return self

    @property
    def uses_scores(self) -> bool:
        """Whether either part does."""
        return self.first.uses_scores or self.second.uses_scores

    @property
    def feature_source(self) -> Literal["features", "keys", "values"] | None:
        """That of the part that compares tokens."""
        return self.first.feature_source or self.second.feature_source

    @property
    def count_is_exact(self) -> bool:
        """Whether the second part fills the count."""
        return self.second.count_is_exact

    @property
    def needs_count(self) -> bool:
        """Whether either part does."""
        return self.first.needs_count or self.second.needs_count

    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``."""
        share = Fraction(repr(self.share))
        counts = torch.tensor([round_half_up(share * count) for count in candidates.counts.tolist()], dtype=torch.int64)
        counts = torch.maximum(counts, candidates.protected.sum(-1).cpu())
        kept = self.first.select(replace(candidates, counts=counts))
        return self.second.select(replace(candidates, protected=kept))
