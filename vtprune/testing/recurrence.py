"""Hiding tokens from a decoder layer that has no attention: a convolution, or linear attention.

A recurrence cannot be masked, so the hidden tokens are taken out of the layer's input and their places are kept: what
comes out for the others is put back where they stood. A part of `vtprune.testing.reference`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class Spliced:
    """Context manager that hides tokens from one layer without attention.

    keep: bool `[sample, token]` of the padded prompt, False for what is hidden; later tokens never are. The beams of a
    sample share its row. What leaves the layer at a hidden token is what entered it, and means nothing.

    Raises ValueError, when the model runs, on a prompt in chunks whose samples keep different numbers of tokens: a
    recurrence that goes on cannot be padded.
    """

    def __init__(self, layer: nn.Module, keep: Tensor) -> None:
        self.layer, self.keep = layer, keep
        self._seen: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._pending: list[tuple[Tensor, list[Tensor]] | None] = []
        self._stack = ExitStack()

    def __enter__(self) -> Spliced:
        self._stack.callback(self.layer.register_forward_pre_hook(self._take_out, with_kwargs=True).remove)
        self._stack.callback(self.layer.register_forward_hook(self._put_back).remove)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _take_out(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden: Tensor = args[0]
        batch, tokens = hidden.shape[:2]
        start = self._start(kwargs.get("past_key_values"), tokens)
        kept = self._kept(start, batch, tokens).to(hidden.device)
        if bool(kept.all()):
            self._pending.append(None)
            return None
        if (mask := kwargs["attention_mask"]) is not None:
            kept = kept & mask[:, -tokens:].bool()
        rows = [row.nonzero()[:, 0] for row in kept]
        ragged = len({len(row) for row in rows}) > 1
        if ragged and start:
            raise ValueError("samples that keep different numbers of tokens cannot continue a recurrence in one batch")
        self._pending.append((hidden, rows))
        compact = pad_sequence([hidden[sample, row] for sample, row in enumerate(rows)], True, 0.0, "left")
        real = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], True, False, "left")
        return (compact, *args[1:]), {**kwargs, "attention_mask": real if ragged else None}

    def _put_back(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if (pending := self._pending.pop()) is None:
            return None
        hidden, rows = pending
        return torch.stack(
            [hidden[sample].index_copy(0, row, output[sample, -len(row) :]) for sample, row in enumerate(rows)]
        )

    def _start(self, cache: Any, tokens: int) -> int:
        """How many tokens came before, in earlier calls with this cache."""
        if cache is None:
            return 0
        start = self._seen.get(cache, 0)
        self._seen[cache] = start + tokens
        return start

    def _kept(self, start: int, batch: int, tokens: int) -> Tensor:
        """bool `[row, token]` of this call."""
        read = self.keep[:, start : start + tokens]
        later = read.new_ones(len(read), tokens - read.shape[1])
        return torch.cat([read, later], 1).repeat_interleave(batch // len(read), 0)
