"""The attention probe: a pass-through attention function that shows queries and keys to whoever asked.

A transformers model looks its attention kernel up by name on every call. While a recipe that reads attention is active,
the name is ``vtprune_<impl>``; that function computes the few rows that were asked for beside the native kernel and
then calls the kernel unchanged. No N x N matrix is ever made.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from vtprune.core.engine.replacing import replaced
from vtprune.core.errors import UnsupportedModeError

PREFIX = "vtprune_"
TAP = "_vtprune_tap"
SUPPORTED = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
ROWS_AT_ONCE = 64

Tap = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]], Callable[[Any], Any] | None]
"""Sees a call ``(module, query, key, value, mask, kwargs)``. Returns None to let the kernel run, or a function that is
given the kernel and makes the output."""


def implementation(config: Any) -> str:
    """The native attention implementation of a (sub)config, also while a probe is active."""
    return str(config._attn_implementation or "eager").removeprefix(PREFIX)


def check_implementation(config: Any, part: str) -> str | None:
    """Why the model's attention implementation cannot be served, or None."""
    name = implementation(config)
    if name not in SUPPORTED:
        return (
            f"attention implementation {name!r} of the {part} cannot be pruned exactly (its masks are not plain "
            f"tensors that can be rewritten); load the model with attn_implementation set to one of "
            f"{', '.join(SUPPORTED)}"
        )
    return None


def _native(name: str, module: nn.Module) -> Callable[..., Any]:
    if name == "eager":
        function: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        return function
    return ALL_ATTENTION_FUNCTIONS[name]


class _Disguise:
    """A module as its native kernel expects it: flash kernels read the implementation's name from ``module.config``."""

    def __init__(self, module: Any, name: str) -> None:
        self._module = module
        self.config = copy.copy(module.config)
        self.config._attn_implementation_internal = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _probing(name: str) -> Callable[..., Any]:
    def vtprune_attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        target, native = _Disguise(module, name) if "flash" in name else module, _native(name, module)
        tap: Tap | None = module.__dict__.get(TAP)
        instead = None if tap is None else tap(module, query, key, value, attention_mask, kwargs)
        if instead is not None:
            return instead(lambda query, key, value, mask: native(target, query, key, value, mask, *args, **kwargs))
        return native(target, query, key, value, attention_mask, *args, **kwargs)

    return vtprune_attention


class _Alias(str):
    """The name of the probe, which also answers to the native one, for models that ask for it (`probing`). Not so for
    eager, which older models look up in no table: they would never come to the probe."""

    native: str

    def __new__(cls, native: str) -> _Alias:
        made = super().__new__(cls, PREFIX + native)
        made.native = native
        return made

    def __eq__(self, other: object) -> bool:
        return str(self) == other or (self.native != "eager" and other == self.native)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


_users: dict[str, int] = {}


@contextmanager
def probing(config: Any, asked_by_name: bool = False) -> Iterator[Callable[[bool], None]]:
    """Route the attention of every module that shares ``config`` through the probe; everything is restored on exit.

    asked_by_name: whether the model asks its configuration for the native name, as Gemma4 does where layers share keys.
        (Not for others: compiled code that was guarded by the native name would run instead of the probe.)

    Gives a switch, on at first, so that calls in which nobody is interested (decoding) take the native path.
    The name is registered in both of transformers' tables: an attention function whose name the mask table does not
    know runs without any mask.
    """
    name = implementation(config)
    before, alias = config._attn_implementation_internal, _Alias(name) if asked_by_name else PREFIX + name
    masks = AttentionMaskInterface._global_mapping
    if name not in masks:
        raise UnsupportedModeError(
            f"attention implementation {name!r} has no mask function in transformers, so its calls carry no mask"
        )
    if not _users.get(alias):
        AttentionInterface.register(alias, _probing(name))
        AttentionMaskInterface.register(alias, masks[name])
    _users[alias] = _users.get(alias, 0) + 1

    def switch(on: bool) -> None:
        if config._attn_implementation_internal in (before, alias):  # somebody else's choice is left alone
            config._attn_implementation_internal = alias if on else before

    switch(True)
    try:
        yield switch
    finally:
        switch(False)
        _users[alias] -= 1
        if not _users[alias]:
            del _users[alias]
            AttentionInterface._global_mapping.pop(alias, None)
            masks.pop(alias, None)


def tapped(module: nn.Module, tap: Tap) -> AbstractContextManager[None]:
    """Let ``tap`` see the attention calls of ``module``."""
    return replaced(module, TAP, tap)


def attention_rows(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    rows: Tensor,
    weights: Tensor,
    *,
    scaling: float | None,
    causal: bool,
    softcap: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """Weighted mean of a few rows of softmax attention, without the full matrix.

    query: ``[batch, head, token, dim]``; key: ``[batch, kv_head, key, dim]``, both as the kernel gets them.
    mask: what the kernel gets: None, ``[batch, 1|head, token, key]`` bool or additive, or ``[batch, key]`` padding.
    rows, weights: int64 and float32 ``[batch, row]``; rows to read and how much each counts (weights sum to 1).
    causal: whether a row sees only the keys up to its own position when no 4-D mask says otherwise; the last query
        stands at the last key.
    Returns float32 ``[batch, head, key]``.
    """
    batch, heads, length, dim = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    total: Tensor | None = None
    positions = torch.arange(keys, device=query.device)
    for row, weight in zip(rows.split(ROWS_AT_ONCE, 1), weights.split(ROWS_AT_ONCE, 1), strict=True):
        picked = query.gather(2, row[:, None, :, None].expand(-1, heads, -1, dim))
        grouped = picked.reshape(batch, kv_heads, -1, dim)  # rows of a group's query heads beside one another
        scores = (grouped @ key.transpose(2, 3)) * (dim**-0.5 if scaling is None else scaling)
        scores = scores.view(batch, heads, row.shape[1], keys)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is not None and mask.dim() == 4:
            chosen = mask.expand(batch, -1, -1, -1)
            chosen = chosen.gather(2, row[:, None, :, None].expand(-1, chosen.shape[1], -1, chosen.shape[3]))
            chosen = chosen[..., :keys]
            if chosen.dtype == torch.bool:
                scores = scores.masked_fill(~chosen, torch.finfo(scores.dtype).min)
            else:
                scores = scores + chosen
        else:
            at = (row + keys - length)[:, None, :, None]
            hidden = positions > at if causal else torch.zeros_like(positions > at)
            if sliding_window is not None:
                hidden = hidden | (positions <= at - sliding_window)
            if mask is not None:
                hidden = hidden | ~mask[:, None, None, :keys].bool()
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        probabilities = scores.softmax(-1, dtype=torch.float32)
        part = (weight[:, None, None] @ probabilities).squeeze(2)
        total = part if total is None else total + part
    assert total is not None
    return total


def is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether the kernel applies a causal rule by itself, as the attention functions of transformers decide it."""
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)
