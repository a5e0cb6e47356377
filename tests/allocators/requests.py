"""Requests and signals for allocators, without a model."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from vtprune.core.budget import Budget
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need, Signals


def request(
    target: Fraction | int | str | None = None,
    sizes: tuple[int, ...] = (10,),
    original: tuple[int, ...] | None = None,
    layers: tuple[int, ...] = (0,),
    spans: tuple[int, ...] | None = None,
    layer: int | None = None,
    kv_heads: int | None = None,
    budget: Budget | None = None,
) -> AllocationRequest:
    """A request with the rest filled in: spans of 1, the first layer, nothing dropped yet."""
    return AllocationRequest(
        target=None if target is None else Fraction(target),
        sizes=sizes,
        original=sizes if original is None else original,
        layer=layers[0] if layer is None else layer,
        layers=layers,
        spans=(1,) * len(layers) if spans is None else spans,
        depth=32,
        kv_heads=kv_heads,
        budget=budget,
    )


def signals(batch: int = 1, vision: int = 10, attention: Tensor | None = None, query: str = "last") -> Signals:
    """A bucket of ``batch`` samples; ``attention`` is ``[batch, head, vision]``."""
    if attention is not None:
        batch, _, vision = attention.shape
    layouts = (SampleLayout(torch.arange(vision), (Segment(0, 0, vision),)),) * batch
    return Signals.of({} if attention is None else {Need("attention", query): attention}, layouts)


def over_layers(allocator: Allocator, batch: int = 1, **fields: object) -> list[Allocation]:
    """The allocations at each of the stage's layers."""
    layers = fields["layers"]
    return [allocator.allocate(request(**fields, layer=layer), signals(batch)) for layer in layers]


def totals(allocator: Allocator, **fields: object) -> list[int]:
    """Tokens of the first sample at each of the stage's layers."""
    return [int(allocation.counts[0].sum()) for allocation in over_layers(allocator, **fields)]
