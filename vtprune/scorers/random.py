"""Pseudo-random scores: the baseline every method has to beat."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals


class Random(Scorer):
    """One pseudo-random number per vision token.

    The number depends on ``seed``, on the sample's own content and on the token's index among the sample's vision
    tokens in the prompt. So a token has the same score at every site and layer (sets kept by later stages are nested),
    and batch mates, the order of samples and earlier drops change nothing. The global generators are not used.

    seed: any integer.
    """

    seed: int = 0

    @property
    def permutation_equivariant(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("sample_seed")})

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, uniform in [0, 1)."""
        rows = [
            torch.rand(layout.vision, generator=self._generator(sample_seed))
            for layout, sample_seed in zip(signals.layouts, signals.sample_seeds().tolist(), strict=True)
        ]
        chosen = [row.to(signals.device)[alive] for row, alive in zip(rows, signals.alive, strict=True)]
        return torch.stack(chosen)

    def _generator(self, sample_seed: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed},{sample_seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
