"""An oracle: scores that the caller provides, because it knows where the answer is."""

from __future__ import annotations

from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals
from vtprune.scorers.random import Random


class Oracle(Scorer):
    """The caller's annotation of each vision token (`Run.annotate`), tokens of equal annotation in pseudo-random order.

    In a study the annotation is the share of a token's area that shows what the answer needs (`Sample.regions`). That
    is a reference for selection, not a method, and no bound: counting, say, may need more than what is counted.

    seed: of the order among equals.
    """

    seed: int = 0

    @property
    def permutation_equivariant(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("annotation"), Need("sample_seed")})

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``: the annotation, plus less than a thousandth."""
        order = Random(seed=self.seed).score(signals)
        return signals.annotation().to(order.device) + order / 1000
