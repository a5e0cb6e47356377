"""Where a pruned layer's keys and values lie.

`Packed` stores a different number of tokens for every sample and KV head without padding: that is what makes per-head
budgets save memory. The attention kernel needs a rectangle, so a padded view is made for the time of one layer's call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Packed:
    """Keys and values of ragged rows, one after the other.

    keys, values: ``[total, dim]``; rows in (batch, kv_head) order. lengths: int64 ``[batch, kv_head]`` on the CPU.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        width = int(self.lengths.max())
        column = torch.arange(width)
        flat = self.lengths.reshape(-1, 1)
        start = torch.cumsum(flat, 0) - flat
        used = column >= width - flat
        index = torch.where(used, start + column - (width - flat), torch.zeros_like(start))
        device = self.keys.device
        self._index = index.reshape(-1).to(device)
        self.used = used.reshape(*self.lengths.shape, width).to(device)

    @property
    def width(self) -> int:
        """Slots of the longest row."""
        return self.used.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the stored keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def padded(self) -> tuple[Tensor, Tensor]:
        """Keys and values as ``[batch, kv_head, width, dim]``, right-aligned; filler slots repeat a stored row."""
        if not self.keys.shape[0]:
            shape = (*self.used.shape, self.keys.shape[-1])
            return self.keys.new_zeros(shape), self.values.new_zeros(shape)
        keys, values = (t.index_select(0, self._index).view(*self.used.shape, -1) for t in (self.keys, self.values))
        return keys, values

    def rows(self, choose: Callable[[Tensor], Tensor]) -> Packed:
        """The same storage for other samples: ``choose`` maps a tensor along its batch axis."""
        batch, heads = self.lengths.shape
        chosen = choose(torch.arange(batch, device=self.keys.device)).cpu()
        lengths = self.lengths[chosen]
        flat = self.lengths.reshape(-1)
        start = (torch.cumsum(flat, 0) - flat).reshape(batch, heads)[chosen].reshape(-1)
        counts = lengths.reshape(-1)
        within = torch.arange(int(counts.sum())) - torch.repeat_interleave(torch.cumsum(counts, 0) - counts, counts)
        index = (torch.repeat_interleave(start, counts) + within).to(self.keys.device)
        return Packed(self.keys.index_select(0, index), self.values.index_select(0, index), lengths)


def compact(keys: Tensor, values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The kept slots of every (sample, KV head), in order, one after the other: two tensors ``[total, dim]``.

    keys, values: ``[batch, kv_head, slot, dim]``; index: int64 ``[total]`` from `flat_index`. One flat index_select
    runs close to the speed of a copy, many times faster than a gather with expanded indices.
    """
    flat_keys, flat_values = (t.reshape(-1, t.shape[-1]).index_select(0, index) for t in (keys, values))
    return flat_keys, flat_values


def flat_index(keep: Tensor) -> Tensor:
    """int64 ``[total]``: where a bool tensor of any shape is True, counted through the flattened tensor.

    On the CPU by NumPy, whose search is eight times faster than torch's; torch's would cost a third of a compaction.
    """
    if keep.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(keep.numpy()))
    return keep.reshape(-1).nonzero().squeeze(-1)
