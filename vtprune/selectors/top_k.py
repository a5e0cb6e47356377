"""The highest scores."""

from __future__ import annotations

from torch import Tensor

from vtprune.core.component import Candidates, Selector
from vtprune.selectors.common import keep_highest, required_scores


class TopK(Selector):
    """Keep the tokens with the highest scores; equal scores go to the lower index."""

    @property
    def rank_only(self) -> bool:
        """True: the ranking is all that counts."""
        return True

    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``: exactly the counts."""
        return keep_highest(required_scores(candidates, "top_k"), candidates.counts, candidates.protected)
