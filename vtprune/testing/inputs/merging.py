"""What reducers are handed: features, which tokens stay, and how many tokens each stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtprune.core.component import Merged, Reducer
from vtprune.testing.inputs.candidates import hard_features
from vtprune.testing.inputs.trials import Tensors, Trial


@dataclass(frozen=True)
class Merging:
    """The arguments of `Reducer.merge`. features: float ``[batch, vision, dim]``; keep: bool ``[batch, vision]``;
    sizes: float32 ``[batch, vision]``."""

    features: Tensor
    keep: Tensor
    sizes: Tensor

    def sample(self, sample: int) -> Merging:
        """One sample alone, with its batch axis, in memory of its own."""
        return Merging(*(t[sample : sample + 1].clone() for t in (self.features, self.keep, self.sizes)))

    def by(self, reducer: Reducer) -> Merged | None:
        """What the reducer makes of copies of these."""
        return reducer.merge(self.features.clone(), self.keep.clone(), self.sizes.clone())


def merging(
    kept: Sequence[int] = (4, 9, 1),
    vision: int = 12,
    dim: int = 6,
    kind: str = "random",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Merging:
    """One sample for each number of kept tokens, which are spread at random; sizes are whole numbers from 1 to 4.

    kind: of features, see `hard_features`; clamped to what the dtype holds.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = len(kept)
    keep = torch.zeros(batch, vision, dtype=torch.bool)
    for sample, count in enumerate(kept):
        keep[sample, torch.randperm(vision, generator=generator)[:count]] = True
    sizes = torch.randint(1, 5, (batch, vision), generator=generator).float()
    limit = torch.finfo(dtype).max
    features = hard_features(kind, batch, vision, dim, seed).clamp(-limit, limit)
    return Merging(features.to(dtype), keep, sizes)


def trials_of(reducer: Reducer) -> Iterator[Trial]:
    """Samples that keep many, few and all tokens, and one alone."""

    def call(inputs: Tensors) -> Tensors:
        merged = reducer.merge(inputs["features"], inputs["keep"], inputs["sizes"])
        return {} if merged is None else {"features": merged.features, "sizes": merged.sizes}

    for label, given in {"four samples": merging((4, 9, 1, 12)), "one sample": merging((5,), seed=1)}.items():
        yield Trial(label, {"features": given.features, "keep": given.keep, "sizes": given.sizes}, call)
