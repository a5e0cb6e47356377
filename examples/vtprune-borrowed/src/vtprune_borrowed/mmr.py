"""Maximal marginal relevance: worth keeping and unlike what is kept already."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from vtprune.plugin import Candidates, ComponentError, Selector

TIE = 1e-9
"""Gains closer than this are equal: rounding must not decide between duplicates, so the lower index does."""


class Mmr(Selector):
    """Take, again and again, the token with the largest marginal relevance (Carbonell and Goldstein, SIGIR 1998)::

        relevance * r_i - (1 - relevance) * max_{j kept} cos(x_i, x_j)

    with r the scores, min-max scaled to [0, 1] in each row by itself, and x the features. That is their formula, with
    vision tokens for documents and the stage's scorer for the similarity to the query; the scaling and the cosine are
    our choices. The first pick is the highest score. Costs count * vision * dim; no matrix of all pairs is made.

    Protected tokens are taken first, then scores of +inf; scores of -inf come last. Equal gains go to the lower index.

    relevance: lambda of the paper; 1 looks at the scores alone.
    feature: what is compared: the site's ``features``, or the ``keys`` or ``values`` of the nearest attention layer.
    """

    relevance: Annotated[float, Field(gt=0, le=1)] = 0.5
    feature: Literal["features", "keys", "values"] = "features"

    @classmethod
    def examples(cls) -> tuple[Mmr, ...]:
        return cls(), cls(relevance=0.2)

    @property
    def feature_source(self) -> Literal["features", "keys", "values"]:
        return self.feature

    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``: exactly the counts.

        Raises ComponentError without scores or features, or if a feature is NaN or infinite.
        """
        if candidates.scores is None or candidates.features is None:
            lacking = "scores" if candidates.scores is None else "features"
            raise ComponentError(f"mmr weighs scores against likeness, but Candidates.{lacking} is None")
        keep = torch.zeros_like(candidates.protected)
        for row, count in enumerate(candidates.counts.tolist()):
            if count:
                order = self._order(candidates.scores[row], candidates.features[row], candidates.protected[row], count)
                keep[row].scatter_(0, order, True)
        return keep

    def _order(self, scores: Tensor, features: Tensor, protected: Tensor, count: int) -> Tensor:
        """int64 ``[count]``: the tokens of one row in the order in which they are taken."""
        left = torch.ones_like(scores, dtype=torch.int8)
        left = left.masked_fill(torch.isposinf(scores), 2).masked_fill(torch.isneginf(scores), 0)
        left = left.masked_fill(protected, 3)
        relevance, points = self.relevance * scaled(scores), directions(features)
        nearest = torch.full_like(relevance, -1.0)
        order = []
        for _ in range(count):
            gain = relevance - (1 - self.relevance) * nearest
            gain = gain.masked_fill(left < left.max(), -torch.inf)
            pick = (gain >= gain.max() - TIE).byte().argmax(keepdim=True)
            nearest = torch.maximum(nearest, points @ points[pick].squeeze(0))
            left = left.scatter(0, pick, -1)
            order.append(pick)
        return torch.cat(order)


def scaled(scores: Tensor) -> Tensor:
    """float64 ``[vision]`` in [0, 1]; infinite scores count as the largest or smallest finite one, equal ones as 1."""
    scores = scores.double()
    finite = torch.isfinite(scores)
    low = scores.masked_fill(~finite, torch.inf).amin()
    high = scores.masked_fill(~finite, -torch.inf).amax()
    span = high - low
    found = (torch.minimum(torch.maximum(scores, low), high) - low) / span
    return torch.where(span > 0, found, torch.ones_like(found))


def directions(features: Tensor) -> Tensor:
    """float64 ``[vision, dim]`` of length 1; zero vectors stay zero. Raises ComponentError for NaN and infinities."""
    points = features.double()
    bad = int((~torch.isfinite(points)).any(-1).sum())
    if bad:
        raise ComponentError(
            f"mmr cannot compare features with NaN or infinity, in {bad} of {len(points)} tokens; a likely cause is "
            f"float16 overflow in the model, which bfloat16 or float32 avoids"
        )
    return normalize(points, dim=-1, eps=torch.finfo(points.dtype).tiny)
