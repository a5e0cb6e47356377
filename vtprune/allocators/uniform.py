"""Uniform: the budget, spread evenly over the layers of the stage."""

from __future__ import annotations

from vtprune.allocators.segments import for_batch, over_segments
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.signals import Signals


class Uniform(Allocator):
    """The same number of tokens at each of the stage's layers and in each head.

    A budget that is no whole number per layer (``mean_tokens_over_layers: 100.5`` over a range of layers) gives the
    earlier layers one token more, as far as the budget goes: the counts, each weighted by the layers it governs, never
    sum to more than the target. A single layer rounds down. Images share a layer's tokens in proportion to their
    sizes in the prompt, by largest remainder. If fewer tokens survive than the budget grants, all survivors stay.

    Without a budget (a selector that finds its own count) every token is granted.
    """

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        """int64 ``[batch, segment]``, equal for all samples of the bucket."""
        if request.target is None:
            return Allocation(for_batch(list(request.sizes), signals.batch))
        count = request.target.numerator // request.target.denominator
        spare = (request.target - count) * sum(request.spans)
        for layer, span in zip(request.layers, request.spans, strict=True):
            spare -= span
            if spare < 0:
                break
            if layer == request.layer:
                count += 1
        return Allocation(for_batch(over_segments(count, request), signals.batch))
