"""Edits of hidden states, kept as functions so that gradient checkpointing can repeat them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

Step = Callable[[Tensor], Tensor]
"""Hidden states ``[batch, token, dim]`` in, edited ones out; the number of tokens may change."""


def after(hidden: Tensor, steps: Iterable[Step]) -> Tensor:
    """Hidden states after one step and then the next."""
    for step in steps:
        hidden = step(hidden)
    return hidden
