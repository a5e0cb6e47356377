"""The arguments of a decoder layer, rewritten so that it computes the compact problem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Parts
from vtprune.core.engine.cache import PrunedLayer
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.masks import Slots, rewrite


class LayerInputs:
    """Rewrites rotary embeddings, position ids and masks. flash, eager: which kind of kernel the layers use."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.flash = self.eager = False
        self.rotary: Tensor | None = None

    def clear(self) -> None:
        """Let go of the latest forward's positions."""
        self.rotary = None

    def rotary_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the rotary embedding: takes note of the positions. Registered for re-indexing only."""
        self.rotary = args[1] if len(args) > 1 else kwargs["position_ids"]

    def rewritten(
        self, layer: int, flow: Flow, hidden: Tensor, store: PrunedLayer | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The keyword arguments that must change so that this layer computes the compact problem."""
        touched = store is not None and not store.untouched
        changed: dict[str, Any] = {}
        if flow.index is not None:
            changed["position_embeddings"] = flow.embeddings(kwargs["position_embeddings"])
            if kwargs.get("position_ids") is not None:
                # Layers get their rotary embedding ready-made; the ids only tell flash kernels about packed sequences,
                # which any gap would look like.
                start = kwargs["position_ids"].reshape(-1)[0]
                ids = torch.arange(flow.width, device=flow.device) + start
                changed["position_ids"] = ids.expand(flow.batch, -1)
        shift = flow.shift if flow.shift is not None else (None if store is None else store.shift)
        if shift is not None:
            changed["position_embeddings"] = self._shifted(flow, hidden, shift)
            if store is not None and flow.shift is not None:
                store.shift, store.shifted_from = flow.shift, flow.past + flow.length - flow.drafts
        if flow.index is None and not touched:
            return changed
        mask = kwargs.get("attention_mask")
        if flow.index is None and mask is None and store is not None and store.all_valid and not store.is_sliding:
            return changed
        queries = flow.queries()
        slots = Slots(queries.positions, queries.valid, queries.all_valid)
        offset = 0
        if store is not None:
            offset = store.offset
            if store.stored:
                slots = _joined(store.slots(flow.batch, flow.device), slots)
            store.announce(queries.positions, queries.valid, queries.all_valid, flow.length)
        attention = self.parts.attention[layer]
        changed["attention_mask"] = rewrite(
            mask,
            queries,
            slots,
            offset=offset,
            groups=self.parts.heads[0] // self.parts.heads[1],
            additive=hidden.dtype if self.eager else None,
            flash=self.flash,
            causal=getattr(attention, "is_causal", True),
            window=None if store is None else store.sliding_window,
        )
        return changed

    def _shifted(self, flow: Flow, hidden: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embeddings of re-indexed tokens."""
        assert self.rotary is not None
        axes = self.rotary if self.rotary.dim() == 3 else self.rotary[None]
        if flow.rotary is None:
            positions = torch.stack([flow.gather(axis) for axis in axes]) - shift[:, None]
        else:
            positions = flow.rotary.expand(axes.shape[0], -1, -1)
        positions = positions if self.rotary.dim() == 3 else positions[0]
        cos, sin = self.parts.language_model.rotary_emb.forward(hidden, positions)
        return cos, sin


def _joined(before: Slots, new: Slots) -> Slots:
    positions, valid = new.positions, new.valid
    if before.per_head:
        shape = (before.positions.shape[0], before.positions.shape[1], -1)
        positions, valid = positions[:, None].expand(shape), valid[:, None].expand(shape)
    return Slots(
        torch.cat([before.positions, positions], -1),
        torch.cat([before.valid, valid], -1),
        before.all_valid and new.all_valid,
    )
