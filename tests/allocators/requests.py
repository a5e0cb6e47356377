"""Requests and signals as the tests of allocators ask for them."""

from __future__ import annotations

from torch import Tensor

from vtprune.core.component import Allocation, Allocator
from vtprune.core.signals import Need, Signals
from vtprune.testing.inputs.layouts import Bucket, layout
from vtprune.testing.inputs.requests import request
from vtprune.testing.inputs.signals import signals_of

__all__ = ["over_layers", "request", "signals", "totals"]


def signals(batch: int = 1, vision: int = 10, attention: Tensor | None = None, query: str = "last") -> Signals:
    """A bucket of ``batch`` samples; ``attention`` is ``[batch, head, vision]``."""
    if attention is not None:
        batch, _, vision = attention.shape
    tensors = {} if attention is None else {Need("attention", query): attention}
    return signals_of(tensors, Bucket((layout(vision),) * batch))


def over_layers(allocator: Allocator, batch: int = 1, **fields: object) -> list[Allocation]:
    """The allocations at each of the stage's layers."""
    layers = fields["layers"]
    return [allocator.allocate(request(**fields, layer=layer), signals(batch)) for layer in layers]


def totals(allocator: Allocator, **fields: object) -> list[int]:
    """Tokens of the first sample at each of the stage's layers."""
    return [int(allocation.counts[0].sum()) for allocation in over_layers(allocator, **fields)]
