"""The arguments of a decoder layer, rewritten so that it computes the compact problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Parts
from vtprune.core.engine.cache import PrunedLayer
from vtprune.core.engine.flow import Flow, rows_at
from vtprune.core.engine.layers import LayerKind
from vtprune.core.engine.masks import Slots, rewrite
from vtprune.core.errors import UnsupportedModeError

KNOWN = frozenset({"hidden_states", "position_embeddings", "position_ids", "attention_mask", "past_key_values"})
"""Keyword arguments of a layer that are no plain rows of tokens, or have an owner here."""


@dataclass(frozen=True)
class LayerArguments:
    """What changes in a layer's arguments.

    keywords: these, by name. survivors: how any other argument is cut down to the tokens that are left, or None; it
    does so when applied, so that gradient checkpointing can repeat it.
    """

    keywords: dict[str, Any]
    survivors: Callable[[Any], Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.keywords) or self.survivors is not None

    def applied(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The layer's arguments with these changes and other hidden states."""
        rest, others = args[1:], kwargs
        if self.survivors is not None:
            rest = tuple(map(self.survivors, rest))
            others = {name: value if name in KNOWN else self.survivors(value) for name, value in kwargs.items()}
        if args:
            return (hidden, *rest), {**others, **self.keywords}
        return args, {**others, **self.keywords, "hidden_states": hidden}


class LayerInputs:
    """Rewrites rotary embeddings, position ids, masks and whatever else a layer is given for each token.

    flash, eager: which kind of kernel the layers use.
    """

    def __init__(self, parts: Parts, kinds: Sequence[LayerKind]) -> None:
        self.parts, self.kinds = parts, kinds
        self.flash = self.eager = False
        self.rotary: Tensor | None = None
        self._shared = frozenset(kind.producer for kind in kinds if kind.shares)
        self._keys: dict[int, tuple[Slots, int]] = {}
        self._by_type = "layer_type" in signature(parts.language_model.rotary_emb.forward).parameters

    def clear(self) -> None:
        """Let go of the latest forward's positions."""
        self.rotary = None
        self._keys.clear()

    def rotary_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the rotary embedding: takes note of the positions. Registered for re-indexing only."""
        self.rotary = args[1] if len(args) > 1 else kwargs["position_ids"]

    def entering(self, layer: int, flow: Flow, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Check that the rows a layer receives are those the flow knows.

        A model may go on with its last tokens only, once no layer needs keys of the others (Gemma4 since transformers
        5.2x does, from its first layer that shares keys on); the rows of its rotary embedding tell.
        """
        pair = kwargs.get("position_embeddings")
        if self.kinds[layer].shares and pair is not None and pair[0].shape[1] != flow.length - flow.first:
            flow.cut(pair[0].shape[1], layer)
        if hidden.shape[1] != flow.width:
            raise UnsupportedModeError(
                f"decoder layer {layer} received {hidden.shape[1]} tokens where {flow.width} were expected; "
                f"something else changes the sequence inside the model"
            )

    def rewritten(
        self,
        layer: int,
        flow: Flow,
        hidden: Tensor,
        store: PrunedLayer | None,
        kwargs: dict[str, Any],
    ) -> LayerArguments:
        """What must change so that this layer computes the compact problem. store: of the keys it attends to."""
        kind, changed = self.kinds[layer], dict[str, Any]()
        survivors = None
        if flow.index is not None:
            survivors = _survivors(flow)
            if kwargs.get("position_embeddings") is not None:
                changed["position_embeddings"] = flow.embeddings(kwargs["position_embeddings"])
            if kwargs.get("position_ids") is not None:
                # Layers get their rotary embedding ready-made; the ids only tell flash kernels about packed sequences,
                # which any gap would look like.
                start = kwargs["position_ids"].reshape(-1)[0].to(flow.device)
                ids = torch.arange(flow.width, device=flow.device) + start
                changed["position_ids"] = ids.expand(flow.batch, -1)
        if kind.attention is None:
            if flow.index is not None:
                changed["attention_mask"] = None if flow.all_valid else flow.valid
            return LayerArguments(changed, survivors)
        shift = flow.shift if flow.shift is not None else (None if store is None else store.shift)
        if shift is not None:
            changed["position_embeddings"] = self._shifted(kind, flow, hidden, shift)
            if store is not None and kind.has_cache and flow.shift is not None:
                store.shift, store.shifted_from = flow.shift, flow.past + flow.length - flow.drafts
        return LayerArguments(changed | self._masks(kind, flow, hidden, store, kwargs), survivors)

    def _masks(
        self, kind: LayerKind, flow: Flow, hidden: Tensor, store: PrunedLayer | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        mask = kwargs.get("attention_mask")
        untouched = store is None or store.untouched
        if kind.shares:
            if flow.index is None and untouched:
                return {}
            slots, offset = self._keys[kind.producer or 0]
        else:
            offset = 0 if store is None else store.offset
            if kind.index in self._shared and (flow.prunable or not untouched):
                self._keys[kind.index] = _keys(flow, store), offset
            if flow.index is None and untouched:
                return {}
            if flow.index is None and mask is None and store is not None and store.all_valid and not store.is_sliding:
                return {}
            slots = self._keys[kind.index][0] if kind.index in self._keys else _keys(flow, store)
            if store is not None:
                queries = flow.queries(slots.positions.device)
                store.announce(queries.positions, queries.valid, queries.all_valid, flow.length)
        device = slots.positions.device
        keys_without_query = slots.positions.shape[-1] > flow.width > 1
        rewritten = rewrite(
            mask if mask is None else flow.brought(mask, device),
            flow.queries(device),
            slots,
            offset=offset,
            groups=kind.groups,
            additive=hidden.dtype if self.eager else None,
            flash=self.flash,
            causal=getattr(kind.attention, "is_causal", True),
            window=None if store is None else store.sliding_window,
            explicit=kind.shares and keys_without_query,
        )
        return {"attention_mask": rewritten}

    def _shifted(self, kind: LayerKind, flow: Flow, hidden: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embeddings of re-indexed tokens."""
        assert self.rotary is not None
        axes = self.rotary if self.rotary.dim() == 3 else self.rotary[None]
        if flow.rotary is None:
            positions = torch.stack([flow.gather(axis) for axis in axes.to(flow.device)])
            positions = positions - shift.to(flow.device)[:, None]
        else:
            positions = flow.rotary.expand(axes.shape[0], -1, -1)
        positions = positions if self.rotary.dim() == 3 else positions[0]
        of_type = (kind.rotary,) if self._by_type else ()
        # The embedding reads no more of its first argument than dtype and device.
        like = hidden if hidden.device == flow.device else hidden.new_empty(1, device=flow.device)
        cos, sin = self.parts.language_model.rotary_emb.forward(like, positions, *of_type)
        return cos, sin


def _survivors(flow: Flow) -> Callable[[Any], Any]:
    """What cuts a tensor ``[batch, token, ...]`` down to those that are left now, and leaves anything else as it is."""
    batch, length, first, index = flow.batch, flow.length, flow.first, flow.index
    assert index is not None

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == batch:
            if value.shape[1] == length:
                return rows_at(value, index)
            if value.shape[1] == length - first:
                return rows_at(value, index - first)
        return value

    return cut


def _keys(flow: Flow, store: PrunedLayer | None) -> Slots:
    """Every key that a layer's kernel is given: what was stored before, and the new tokens."""
    before = None if store is None or not store.stored else store.slots(flow.batch, store.keys.device)
    queries = flow.queries(None if before is None else before.positions.device)
    slots = Slots(queries.positions, queries.valid, queries.all_valid)
    return slots if before is None else before.followed_by(slots)
