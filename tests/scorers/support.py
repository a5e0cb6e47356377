"""Made-up signals as the tests of scorers ask for them, and a scorer that scores as it is told."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.layout import SampleLayout
from vtprune.core.signals import Need, Signals
from vtprune.testing.inputs import signals as inputs
from vtprune.testing.inputs.layouts import Bucket, layout
from vtprune.testing.inputs.signals import DIM, HEADS, KV_HEADS

__all__ = ["DIM", "HEADS", "KV_HEADS", "Given", "given_signals", "layout", "made_up", "signals_of", "tensors_for"]

Layouts = tuple[SampleLayout, ...]


def tensors_for(scorer: Scorer, layouts: Layouts, alive: Tensor | None = None, seed: int = 0) -> dict[Need, Tensor]:
    """Random tensors for everything the scorer needs; each depends on its need and the seed alone."""
    return inputs.tensors_for(scorer, Bucket(layouts, alive), seed)


def signals_of(tensors: Mapping[Need, Tensor], layouts: Layouts, alive: Tensor | None = None) -> Signals:
    return inputs.signals_of(tensors, Bucket(layouts, alive))


def made_up(scorer: Scorer, grid: tuple[int, int, int] = (1, 2, 4), batch: int = 3, seed: int = 0) -> Signals:
    """Signals for ``scorer``: ``batch`` samples of one image each."""
    layouts = (layout(grid),) * batch
    return signals_of(tensors_for(scorer, layouts, seed=seed), layouts)


class Given(Scorer):
    """Scores as given; for looking at the scorers that wrap others. Not registered."""

    values: tuple
    per_head: bool = False
    seen: tuple[Need, ...] = ()

    @property
    def granularity(self):
        return "head" if self.per_head else "token"

    def needs(self) -> frozenset[Need]:
        return frozenset(self.seen)

    def score(self, signals: Signals) -> Tensor:
        return torch.tensor(self.values)


def given_signals(batch: int, vision: int) -> Signals:
    """Signals that offer nothing but their shape."""
    return signals_of({}, (layout((1, 1, vision)),) * batch)
