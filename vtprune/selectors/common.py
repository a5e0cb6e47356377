"""What the selectors share: ranking with protected tokens, tiers of infinite scores, scores as weights."""

from __future__ import annotations

import torch
from torch import Tensor

from vtprune.core.component import Candidates
from vtprune.core.errors import ComponentError


def required_scores(candidates: Candidates, owner: str) -> Tensor:
    """The scores, float32 ``[row, vision]``; raises ComponentError if there are none."""
    if candidates.scores is None:
        raise ComponentError(f"{owner} ranks by score, but Candidates.scores is None; the stage needs a scorer")
    return candidates.scores.float()


def required_features(candidates: Candidates, owner: str) -> Tensor:
    """The features, float32 ``[row, vision, dim]``; raises ComponentError if there are none.

    NaN and infinities are found by `finite_norms`, which every comparison of tokens starts with.
    """
    if candidates.features is None:
        raise ComponentError(f"{owner} compares tokens, but Candidates.features is None; see Selector.feature_source")
    return candidates.features.float()


def keep_highest(scores: Tensor, counts: Tensor, protected: Tensor) -> Tensor:
    """bool ``[row, vision]``: the protected tokens, then the highest scores until ``counts`` ``[row]`` are kept.

    Equal scores go to the lower index. Runs on the device of the scores without waiting for it.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    shielded = protected.gather(-1, order)
    room = counts.to(scores.device, non_blocking=True).unsqueeze(-1) - shielded.sum(-1, keepdim=True)
    kept = shielded | ((~shielded).cumsum(-1) <= room)
    return torch.zeros_like(protected).scatter(-1, order, kept)


def tiers(protected: Tensor, scores: Tensor | None) -> Tensor:
    """int8 ``[row, vision]``: 3 protected, 2 a score of +inf (always), 1 ordinary, 0 a score of -inf (never).

    A greedy selector empties each tier before it turns to the one below.
    """
    level = torch.ones_like(protected, dtype=torch.int8)
    if scores is not None:
        level = level.masked_fill(torch.isposinf(scores), 2).masked_fill(torch.isneginf(scores), 0)
    return level.masked_fill(protected, 3)


def relative_weights(scores: Tensor, floor: float) -> Tensor:
    """float32 ``[row, vision]``: scores min-max scaled into [floor, 1], each row by itself.

    A row of equal scores gets 1 everywhere. Infinite scores count as the largest or smallest finite one. CDPruner's
    official code scales by the extremes of the whole batch, which makes a sample depend on its batch mates; rows here
    never do.
    """
    scores = scores.double()
    finite = torch.isfinite(scores)
    low = torch.where(finite, scores, torch.inf).amin(-1, keepdim=True)
    high = torch.where(finite, scores, -torch.inf).amax(-1, keepdim=True)
    span = high - low
    scaled = (torch.minimum(torch.maximum(scores, low), high) - low) / span
    return torch.where(span > 0, floor + (1 - floor) * scaled, 1.0).float()
