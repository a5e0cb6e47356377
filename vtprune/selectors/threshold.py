"""Selectors that find their own count: every score above a threshold, or the smallest set that holds enough mass."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from vtprune.core.component import Candidates, Selector
from vtprune.core.errors import ComponentError
from vtprune.selectors.common import keep_highest, required_scores


class _Cut(Selector):
    """Keeps a leading part of the ranking by score. The counts, if there is a budget, are an upper bound.

    minimum: tokens that are kept at least, unless the count is lower still.
    """

    minimum: Annotated[int, Field(ge=0)] = 1

    @property
    def count_is_exact(self) -> bool:
        """False: the scores decide."""
        return False

    @property
    def needs_count(self) -> bool:
        """False: a stage may do without a budget."""
        return False

    @abstractmethod
    def _passes(self, scores: Tensor) -> Tensor:
        """bool ``[row, vision]``: a leading part of the ranking of ``scores``, float32 ``[row, vision]``."""

    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``: protected tokens and those that pass; at least ``minimum``, at most the counts."""
        scores = required_scores(candidates, type(self).__name__)
        if not candidates.vision:
            return torch.zeros_like(candidates.protected)
        wanted = (self._passes(scores) | candidates.protected).sum(-1).clamp(min=self.minimum)
        counts = torch.minimum(wanted, candidates.counts.to(scores.device, non_blocking=True))
        return keep_highest(scores, counts, candidates.protected)


class Threshold(_Cut):
    """Keep every token whose score is at least ``value``.

    value: the lowest score that is kept, or with ``relative`` a share of the reference.
    relative: ``absolute`` compares the scores themselves; ``max`` and ``mean`` compare with ``value`` times the
        largest or the mean finite score of the row.
    Raises ComponentError if that reference is negative, where a share of it makes no sense.
    """

    value: Annotated[float, Field(allow_inf_nan=False)]
    relative: Literal["absolute", "max", "mean"] = "absolute"

    @classmethod
    def examples(cls) -> tuple[Threshold, ...]:
        return (
            cls(value=0.5),
            cls(value=0.5, relative="max", minimum=2),
            cls(value=1.0, relative="mean"),
        )

    def _passes(self, scores: Tensor) -> Tensor:
        if self.relative == "absolute":
            return scores >= self.value
        finite = torch.isfinite(scores)
        if self.relative == "max":
            reference = torch.where(finite, scores, -torch.inf).amax(-1, keepdim=True)
            reference = torch.where(finite.any(-1, keepdim=True), reference, 0.0)
        else:
            reference = torch.where(finite, scores, 0.0).sum(-1, keepdim=True) / finite.sum(-1, keepdim=True).clamp(1)
        if (reference < 0).any():
            raise ComponentError(
                f"threshold with relative={self.relative!r} takes a share of the row's {self.relative}, but that is "
                f"{float(reference.min()):.4g}, below 0; use relative='absolute', or scale the scores with the scorer "
                f"'normalise' (min-max or softmax)"
            )
        return scores >= self.value * reference


class TopP(_Cut):
    """Keep the smallest set of highest scores that holds the share ``p`` of the row's total.

    The adaptive count of ZipVL (arXiv 2410.08584, section on the layer-wise ratio; its tau is ``p``). Shares are
    compared to a relative 1e-6, the rounding of float32 scores; ``p: 1`` keeps every score above 0. A score of +inf
    is kept and takes no part in the total; -inf counts as 0.

    p: the share, above 0 and at most 1.
    Raises ComponentError on negative scores.
    """

    p: Annotated[float, Field(gt=0, le=1)]

    @classmethod
    def examples(cls) -> tuple[TopP, ...]:
        return (cls(p=0.6), cls(p=1.0, minimum=3))

    def _passes(self, scores: Tensor) -> Tensor:
        if ((scores < 0) & torch.isfinite(scores)).any():
            lowest = float(scores[torch.isfinite(scores)].min())
            raise ComponentError(
                f"top_p adds up scores as masses of at least 0, but the lowest is {lowest:.4g}; wrap the scorer in "
                f"'normalise' with softmax, which turns any score into a mass"
            )
        always = torch.isposinf(scores)
        mass = torch.where(torch.isfinite(scores), scores, 0.0).double()
        ranked, order = mass.sort(dim=-1, descending=True, stable=True)
        reached = ranked.cumsum(-1)
        goal = reached[:, -1:] * (self.p if self.p == 1 else self.p * (1 - 1e-6))
        taken = reached - ranked < goal
        return torch.zeros_like(taken).scatter(-1, order, taken) | always
