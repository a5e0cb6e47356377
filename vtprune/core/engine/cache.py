"""A cache layer whose logical length differs from what it stores.

transformers derives positions, masks and prefill slicing from the cache's length. `PrunedLayer` therefore reports the
*logical* length, as if nothing had been pruned, stores only what was kept, and remembers the logical position of every
slot. The state follows beams, cropping and batch expansion because it lives in the cache itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from vtprune.core.engine.masks import Slots
from vtprune.core.engine.storage import Packed, compact, flat_index
from vtprune.core.errors import UnsupportedModeError

WITHOUT_KEYS = frozenset({"LinearAttentionLayer", "DummyLayer"})
"""Cache layers that stay as they are: the state of a layer without attention has one size, whatever was dropped, and
the place of a layer that reads an earlier one's keys is empty (or, up to transformers 5.17, missing)."""


class PrunedLayer(DynamicLayer):
    """See the module. ``keys`` and ``values`` hold the dense part, ``[batch, kv_head, slot, dim]``; after a ragged
    eviction ``packed`` holds the prompt's part and the dense part only what was appended since.

    shift: int64 ``[batch]`` or None; by how much rotary positions run behind logical ones (re-indexed prompts).
    """

    keys: Tensor
    values: Tensor

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self.is_croppable = not self.is_sliding
        self.detached = False
        self.record_past = False
        self._clear()

    def _clear(self) -> None:
        self.cumulative_length = 0
        self.packed: Packed | None = None
        self.shift: Tensor | None = None
        self.shifted_from = 0  # the logical length from which on the shift holds
        self._known: Slots | None = None  # positions of the leading slots; later ones follow on without a gap
        self._announced: tuple[Tensor, Tensor, bool, int] | None = None

    # -- what a decoder layer's hook says and asks -----------------------------------------------------------------

    @property
    def untouched(self) -> bool:
        """True while every logical token is stored once, in order."""
        return self._known is None

    @property
    def stored(self) -> int:
        """Slots of the (padded) rectangle an attention call sees."""
        dense = self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0
        return dense + (self.packed.width if self.packed else 0)

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values really take."""
        if not self.is_initialized:
            return 0
        dense = sum(t.numel() * t.element_size() for t in (self.keys, self.values))
        return dense + (self.packed.nbytes if self.packed else 0)

    def announce(self, positions: Tensor, valid: Tensor, all_valid: bool, logical: int) -> None:
        """Tell the layer which tokens the next update brings: positions int64 and valid bool ``[batch, token]``, and
        how far the logical length grows."""
        self._announced = (positions, valid, all_valid, logical)

    def slots(self, batch: int, device: torch.device) -> Slots:
        """Position and validity of every stored slot, which lie where the keys do. device: where they do, or will."""
        stored, known = self.stored, self._known
        if known is None:
            start = self.cumulative_length - stored
            positions = torch.arange(start, start + stored, device=device).expand(batch, stored)
            return Slots(positions, torch.ones_like(positions, dtype=torch.bool), True)
        if (missing := stored - known.positions.shape[-1]) > 0:
            shape = (*known.positions.shape[:-1], missing)
            tail = torch.arange(
                self.cumulative_length - missing, self.cumulative_length, device=known.positions.device
            ).expand(shape)
            self._known = known = Slots(
                torch.cat([known.positions, tail], -1),
                torch.cat([known.valid, torch.ones_like(tail, dtype=torch.bool)], -1),
                known.all_valid,
            )
        return known

    @property
    def all_valid(self) -> bool:
        """True if no slot is a filler."""
        return self._known is None or self._known.all_valid

    def lengths(self) -> Tensor:
        """int64 ``[batch, kv_head]`` on the CPU: tokens held for each sample and KV head."""
        batch, heads = self._rows()
        valid = self.slots(batch, self.keys.device).valid
        counts = valid.sum(-1).cpu()
        return counts if counts.dim() == 2 else counts[:, None].expand(batch, heads)

    def evict(self, keep: Tensor) -> None:
        """Store only the slots in ``keep``, bool ``[batch, kv_head, slot]`` (fillers go in any case)."""
        batch, heads = self._rows()
        keep = keep.to(self.keys.device)
        slots = self.slots(batch, self.keys.device)
        positions = slots.positions if slots.per_head else slots.positions[:, None].expand(batch, heads, -1)
        if not slots.all_valid:
            keep = keep & (slots.valid if slots.per_head else slots.valid[:, None])
        keys, values = self._rectangle()
        index, lengths = flat_index(keep), keep.sum(-1).cpu()
        flat_keys, flat_values = compact(keys, values, index)
        flat_positions = positions.reshape(-1).index_select(0, index)
        self.packed = None
        fewest, most = map(int, lengths.aminmax())
        if fewest == most:
            shape = (batch, heads, most)
            self.keys = flat_keys.view(*shape, flat_keys.shape[-1])
            self.values = flat_values.view(*shape, flat_values.shape[-1])
            kept = flat_positions.view(shape)
            self._known = Slots(kept, torch.ones_like(kept, dtype=torch.bool), True)
            return
        self.packed = Packed(flat_keys, flat_values, lengths)
        self.keys, self.values = keys[:, :, :0].clone(), values[:, :, :0].clone()
        used = self.packed.used
        kept = torch.zeros(used.shape, dtype=positions.dtype, device=positions.device)
        kept[used] = flat_positions
        self._known = Slots(kept, used, False)

    # -- what transformers calls ------------------------------------------------------------------------------------

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append and return everything stored, as ``[batch, kv_head, slot, dim]``."""
        special = self.detached or self.is_sliding or self.packed is not None or self._announced is not None
        if self.is_initialized and not special:
            self.cumulative_length += key_states.shape[-2]
            return super().update(key_states, value_states)
        if self.detached:
            raise UnsupportedModeError(
                "this cache was pruned by vtprune and is used outside its context; continue inside `with "
                "vtprune.prune(...)`"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[-2]
        announced, self._announced = self._announced, None
        if announced is not None:
            self._remember(key_states, announced)
        logical = announced[3] if announced else new
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        self.cumulative_length += logical
        keys, values = self._rectangle()
        if self.sliding_window is not None and self.untouched:
            if self.record_past:
                seen = self.sliding_window - 1 + new
                return keys[:, :, -seen:], values[:, :, -seen:]
            self._forget_before_window()
        return keys, values

    def activate_past_recording(self) -> None:
        """Keep what slides out of the window until the next `crop`, which may take tokens back (assisted decoding)."""
        self.record_past = True

    def get_seq_length(self) -> int:
        """Logical length."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Logical length and offset of the mask's columns."""
        offset = self.offset
        return self.cumulative_length + query_length - offset, offset

    @property
    def offset(self) -> int:
        """Logical position of the first column of the next mask."""
        return max(self.cumulative_length - self.sliding_window + 1, 0) if self.sliding_window is not None else 0

    def get_max_length(self) -> int:
        """The sliding window, or -1."""
        return -1 if self.sliding_window is None else self.sliding_window

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.keys = self.values = None  # type: ignore[assignment]
        self.is_initialized = False
        self._clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder samples for beam search."""
        self._choose(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        self._choose(lambda t: t.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        self._choose(lambda t: t[indices.to(t.device)])

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens. transformers up to 5.17 passes the length to keep instead of a negative count."""
        count = int(tokens_to_remove)
        if not self.is_initialized:
            return
        limit = count if count > 0 else self.cumulative_length + count
        removed = max(self.cumulative_length - limit, 0)
        if self.untouched:
            if removed and self.offset and not self.record_past:
                raise RuntimeError(
                    f"{removed} tokens cannot be taken back: the layer has forgotten what lies before its window of "
                    f"{self.sliding_window}; call activate_past_recording() on the cache first"
                )
            kept = self.keys.shape[-2] - removed
            self.keys, self.values = self.keys[:, :, :kept], self.values[:, :, :kept]
            if self.sliding_window is not None:
                self._forget_before_window()
        elif removed:
            batch, heads = self._rows()
            slots = self.slots(batch, self.keys.device)
            keep = slots.positions < limit
            self.evict(keep if slots.per_head else keep[:, None].expand(batch, heads, -1))
            if self.packed is None and self.stored == limit and self.all_valid:
                self._known = self.shift = None  # what is left was never pruned
            elif self.shift is not None and limit < self.shifted_from:
                raise UnsupportedModeError(
                    f"the cache was cropped to {limit} tokens, into the middle of a re-indexed prompt of "
                    f"{self.shifted_from}; crop it to the length before that prompt, or use positions: retain"
                )
        self.cumulative_length -= removed

    def __deepcopy__(self, memo: dict[int, Any]) -> PrunedLayer:
        """A copy that escapes the context's notice: once pruned, it has to be adopted again before it is used."""
        twin = PrunedLayer(self.sliding_window)
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        twin.detached = not self.untouched
        return twin

    # -- internals ----------------------------------------------------------------------------------------------------

    def _forget_before_window(self) -> None:
        assert self.sliding_window is not None
        start = max(self.keys.shape[-2] - self.sliding_window + 1, 0)
        self.keys, self.values = self.keys[:, :, start:], self.values[:, :, start:]

    def _rows(self) -> tuple[int, int]:
        if self.packed is not None:
            batch, heads = self.packed.lengths.shape
            return batch, heads
        return self.keys.shape[0], self.keys.shape[1]

    def _rectangle(self) -> tuple[Tensor, Tensor]:
        if self.packed is None:
            return self.keys, self.values
        keys, values = self.packed.padded()
        return torch.cat([keys, self.keys], dim=-2), torch.cat([values, self.values], dim=-2)

    def _remember(self, key_states: Tensor, announced: tuple[Tensor, Tensor, bool, int]) -> None:
        positions, valid = (tensor.to(key_states.device) for tensor in announced[:2])
        new = Slots(positions, valid, announced[2])
        first = self._known is None and not self.stored
        self._known = new if first else self.slots(key_states.shape[0], key_states.device).followed_by(new)

    def _choose(self, choose: Callable[[Tensor], Tensor]) -> None:
        if not self.is_initialized or self.cumulative_length == 0:
            return
        spare, before = 0, None if self._known is None else self.slots(self._rows()[0], self.keys.device)
        if self.packed is not None:
            width = self.packed.width
            self.packed = self.packed.rows(choose)
            spare = width - self.packed.width  # leading columns that only rows now gone had filled
        if before is not None:
            positions, valid = (choose(t)[..., spare:] for t in (before.positions, before.valid))
            self._known = Slots(positions, valid, before.all_valid)
        self.keys, self.values = choose(self.keys), choose(self.values)
        if self.shift is not None:
            self.shift = choose(self.shift)


def adopt(cache: Any, depth: int) -> None:
    """Turn a dynamic cache's layers of keys and values into `PrunedLayer`s, in place, with what they hold.

    Raises UnsupportedModeError for caches whose layers cannot be shortened (static, quantised, offloaded, ...).
    """
    if not isinstance(cache, DynamicCache) or getattr(cache, "offloading", False):
        kind = "offloaded cache" if isinstance(cache, DynamicCache) else type(cache).__name__
        raise UnsupportedModeError(
            f"a {kind} cannot be pruned: its layers cannot be shortened in place; use the default dynamic cache (leave "
            f"cache_implementation unset, or pass transformers.DynamicCache())"
        )
    if cache.layer_class_to_replicate is not None:
        cache.layers.extend(cache.layer_class_to_replicate() for _ in range(depth - len(cache.layers)))
    for index, layer in enumerate(cache.layers):
        if type(layer) is PrunedLayer:
            layer.detached = False
        elif type(layer).__name__ in WITHOUT_KEYS:
            continue
        elif type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            cache.layers[index] = _converted(layer)
        else:
            raise UnsupportedModeError(
                f"layer {index} of the cache is a {type(layer).__name__}, which cannot be pruned; use the default "
                f"dynamic cache (leave cache_implementation unset)"
            )


def window_within(cache: DynamicCache, length: int) -> tuple[int, int] | None:
    """The first layer whose sliding window forgets part of ``length`` logical tokens, and that window; None if none
    does."""
    windows = ((index, getattr(layer, "sliding_window", None)) for index, layer in enumerate(cache.layers))
    return next(((index, window) for index, window in windows if window is not None and window <= length), None)


def _converted(layer: Any) -> PrunedLayer:
    pruned = PrunedLayer(getattr(layer, "sliding_window", None))
    pruned.record_past = getattr(layer, "record_past", False)
    length = layer.get_seq_length()
    if length:
        pruned.lazy_initialization(layer.keys, layer.values)
        pruned.keys, pruned.values, pruned.cumulative_length = layer.keys, layer.values, length
    return pruned


def release(cache: DynamicCache) -> None:
    """Undo `adopt` where nothing was pruned; pruned layers stay, but refuse to be used without the context."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is not PrunedLayer:
            continue
        if not layer.untouched:
            layer.detached = True
            continue
        plain = DynamicLayer() if layer.sliding_window is None else DynamicSlidingWindowLayer(layer.sliding_window)
        if layer.is_initialized:
            plain.lazy_initialization(layer.keys, layer.values)
            plain.keys, plain.values = layer.keys, layer.values
            if layer.sliding_window is not None:
                plain.cumulative_length, plain.record_past = layer.cumulative_length, layer.record_past
        cache.layers[index] = plain
