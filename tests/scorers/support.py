"""Made-up signals for scorers, and the checks that every scorer must pass."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need, Signals

HEADS, KV_HEADS, DIM = 6, 3, 5


def layout(*grids: tuple[int, int, int], start: int = 4) -> SampleLayout:
    """A sample whose images have these grids (t, h, w), one after another."""
    segments, stop = [], 0
    for index, (t, h, w) in enumerate(grids):
        segments.append(Segment(index, stop, stop + t * h * w, (t, h, w)))
        stop += t * h * w
    return SampleLayout(torch.arange(start, start + stop), tuple(segments))


def tensor_for(need: Need, layouts: tuple[SampleLayout, ...], alive: Tensor, generator: torch.Generator) -> Tensor:
    """A plausible random tensor for one need."""
    batch, vision = alive.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    match need.kind:
        case "features":
            return normal(batch, vision, DIM)
        case "keys" | "values":
            return normal(batch, KV_HEADS, vision, DIM)
        case "queries":
            return normal(batch, HEADS, vision, DIM)
        case "attention" | "vision_attention":
            return normal(batch, HEADS, vision + 3).softmax(dim=-1)[..., :vision].contiguous()
        case "text":
            return normal(batch, DIM)
        case "grid":
            return torch.stack([one.coordinates()[row] for one, row in zip(layouts, alive, strict=True)])
        case "annotation":
            return torch.rand(batch, vision, generator=generator)
        case "sample_seed":
            return torch.randint(2**62, (batch,), generator=generator)
    raise AssertionError(need)


def tensors_for(
    scorer: Scorer, layouts: tuple[SampleLayout, ...], alive: Tensor | None = None, seed: int = 0
) -> dict[Need, Tensor]:
    """Random tensors for everything the scorer needs; each depends on its need and the seed alone."""
    alive = everything(layouts) if alive is None else alive
    return {
        need: tensor_for(need, layouts, alive, torch.Generator().manual_seed(zlib.crc32(f"{need}{seed}".encode())))
        for need in scorer.needs()
    }


def everything(layouts: tuple[SampleLayout, ...]) -> Tensor:
    """int64 ``[batch, vision]``: no token dropped yet."""
    return torch.stack([torch.arange(one.vision) for one in layouts])


def signals_of(
    tensors: Mapping[Need, Tensor], layouts: tuple[SampleLayout, ...], alive: Tensor | None = None
) -> Signals:
    return Signals.of(tensors, layouts, everything(layouts) if alive is None else alive, layer=3, kv_heads=KV_HEADS)


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
