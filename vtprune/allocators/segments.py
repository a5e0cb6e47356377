"""From one total to a count for each image: what allocators with a single number share."""

from __future__ import annotations

import torch
from torch import Tensor

from vtprune.core.budget import apportion
from vtprune.core.component import AllocationRequest


def over_segments(total: int, request: AllocationRequest) -> list[int]:
    """Split ``total`` over the segments in proportion to their sizes in the prompt, by largest remainder.

    No segment gets more than survives in it; what that cuts off goes to the others. A ``total`` above all survivors
    keeps every one of them.
    """
    return apportion(min(total, sum(request.sizes)), request.original, request.sizes)


def for_batch(counts: list[int] | list[list[int]], batch: int) -> Tensor:
    """int64 on the CPU: ``[segment]`` or ``[kv_head, segment]`` counts, repeated for each sample of the bucket."""
    row = torch.tensor(counts, dtype=torch.int64)
    return row.unsqueeze(0).repeat(batch, *[1] * row.ndim)
