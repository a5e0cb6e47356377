"""`PrunedLayer` against lists of (position, key) pairs, and against transformers' own layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticCache

from vtprune.core.engine.cache import PrunedLayer, adopt, release
from vtprune.core.errors import UnsupportedModeError

HEADS, DIM = 2, 2
Row = list[tuple[int, float]]


@dataclass
class Model:
    """What a layer should hold: ``rows[sample][head]`` lists (position, key) pairs."""

    window: int | None
    rows: list[list[Row]]
    length: int = 0
    touched: bool = False
    fresh: int = field(default=0)

    def keys(self, batch: int, count: int) -> Tensor:
        """Keys that were never seen before, ``[batch, kv_head, token, dim]``."""
        numbers = torch.arange(self.fresh, self.fresh + batch * HEADS * count, dtype=torch.float32)
        self.fresh += len(numbers)
        return numbers.view(batch, HEADS, count, 1).expand(-1, -1, -1, DIM).contiguous()

    def trim(self) -> None:
        if self.window is not None and not self.touched:
            for heads in self.rows:
                for row in heads:
                    del row[: max(len(row) - self.window + 1, 0)]


def append(layer: PrunedLayer, model: Model, count: int) -> None:
    """Tokens come in that nobody announced: decoding."""
    keys = model.keys(len(model.rows), count)
    expected = [[[*row] for row in heads] for heads in model.rows]
    for sample, heads in enumerate(expected):
        for head, row in enumerate(heads):
            row += [(model.length + i, float(keys[sample, head, i, 0])) for i in range(count)]
    returned, values = layer.update(keys, keys + 0.5)
    model.rows, model.length = expected, model.length + count
    assert torch.equal(values, returned + 0.5) or not returned.numel()
    if not model.touched:
        assert returned[..., 0].tolist() == [[[key for _, key in row] for row in heads] for heads in expected]
    model.trim()


def announce(layer: PrunedLayer, model: Model, counts: list[int], logical: int, draw: Callable[..., Any]) -> None:
    """A compact prompt comes in: rows of several lengths, fillers on the left."""
    width = max(counts)
    positions, valid = (
        torch.zeros(len(counts), width, dtype=torch.int64),
        torch.zeros(len(counts), width, dtype=torch.bool),
    )
    keys = model.keys(len(counts), width)
    for sample, count in enumerate(counts):
        chosen = sorted(draw(st.permutations(range(logical)))[:count])
        positions[sample, width - count :] = torch.tensor(chosen, dtype=torch.int64) + model.length
        valid[sample, width - count :] = True
        for head in range(HEADS):
            row = zip(
                positions[sample].tolist(), keys[sample, head, :, 0].tolist(), valid[sample].tolist(), strict=True
            )
            model.rows[sample][head] += [(position, key) for position, key, real in row if real]
    layer.announce(positions, valid, bool(valid.all()), logical)
    layer.update(keys, keys + 0.5)
    model.length, model.touched = model.length + logical, True


def check(layer: PrunedLayer, model: Model) -> None:
    batch = len(model.rows)
    slots = layer.slots(batch, torch.device("cpu"))
    keys, values = layer._rectangle()
    assert torch.equal(values, keys + 0.5) or not keys.numel()
    assert keys.shape == (batch, HEADS, layer.stored, DIM) or not keys.numel()
    positions = slots.positions if slots.per_head else slots.positions[:, None].expand(-1, HEADS, -1)
    valid = slots.valid if slots.per_head else slots.valid[:, None].expand(-1, HEADS, -1)
    seen = [
        [
            [(int(p), float(k)) for p, k, v in zip(positions[b, h], keys[b, h, :, 0], valid[b, h], strict=True) if v]
            for h in range(HEADS)
        ]
        for b in range(batch)
    ]
    assert seen == model.rows
    assert layer.get_seq_length() == model.length
    assert layer.untouched is not model.touched
    assert layer.all_valid == bool(slots.valid.all()) or not layer.all_valid
    assert layer.lengths().tolist() == [[len(row) for row in heads] for heads in model.rows]
    assert layer.get_mask_sizes(3) == (model.length + 3 - layer.offset, layer.offset)
    assert layer.offset == (0 if model.window is None else max(model.length - model.window + 1, 0))


OPERATIONS = ("append", "announce", "evict", "crop", "reorder", "repeat", "select")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_sequence_of_operations_equals_the_lists(data: st.DataObject) -> None:
    draw = data.draw
    window = draw(st.sampled_from([None, None, 4, 50]))
    batch = draw(st.integers(1, 3))
    layer, model = PrunedLayer(window), Model(window, [[[] for _ in range(HEADS)] for _ in range(batch)])
    append(layer, model, draw(st.integers(1, 5)))
    check(layer, model)
    for operation in draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=7)):
        batch = len(model.rows)
        if operation == "append":
            append(layer, model, draw(st.integers(1, 3)))
        elif operation == "announce":
            logical = draw(st.integers(1, 5))
            announce(layer, model, [draw(st.integers(1, logical)) for _ in range(batch)], logical, draw)
        elif operation == "evict":
            slots, keep = (
                layer.slots(batch, torch.device("cpu")),
                torch.zeros(batch, HEADS, layer.stored, dtype=torch.bool),
            )
            ragged = draw(st.booleans())
            for sample in range(batch):
                for head in range(HEADS):
                    own = slots.valid[sample, head] if slots.per_head else slots.valid[sample]
                    row = model.rows[sample][head]
                    stay = [draw(st.booleans()) if ragged else i > 0 for i in range(len(row))]
                    keep[sample, head, own] = torch.tensor(stay, dtype=torch.bool)
                    model.rows[sample][head] = [pair for pair, stays in zip(row, stay, strict=True) if stays]
            layer.evict(keep)
            model.touched = True
        elif operation == "crop":
            removed = draw(st.integers(0, model.length))
            if removed and not model.touched and layer.offset:
                with pytest.raises(RuntimeError, match="forgotten what lies before its window of 4"):
                    layer.crop(-removed)
                continue
            layer.crop(-removed)
            model.length -= removed
            model.rows = [[[pair for pair in row if pair[0] < model.length] for row in heads] for heads in model.rows]
            whole = all(len(row) == model.length for heads in model.rows for row in heads)
            if removed and model.touched and whole and layer.packed is None:
                model.touched = False  # what is left was never pruned
        elif model.length:
            index = draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=3))
            if operation == "reorder":
                layer.reorder_cache(torch.tensor(index))
            elif operation == "select":
                layer.batch_select_indices(torch.tensor(index))
            else:
                layer.batch_repeat_interleave(2)
                index = [sample for sample in range(batch) for _ in range(2)]
            model.rows = [[list(row) for row in model.rows[sample]] for sample in index]
        check(layer, model)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_an_untouched_layer_is_transformers_own(data: st.DataObject) -> None:
    window = data.draw(st.sampled_from([None, 2, 4, 50]))
    mine = PrunedLayer(window)
    own = DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)
    recording = data.draw(st.booleans())
    if recording and window is not None:  # as `generate` does, before the first token comes in
        mine.activate_past_recording()
        own.activate_past_recording()
    for _ in range(data.draw(st.integers(1, 6))):
        keys = torch.randn(2, HEADS, data.draw(st.integers(1, 5)), DIM)
        assert mine.get_mask_sizes(keys.shape[2]) == own.get_mask_sizes(keys.shape[2])
        for one, other in zip(mine.update(keys, -keys), own.update(keys, -keys), strict=True):
            assert torch.equal(one, other)
        assert mine.get_seq_length() == own.get_seq_length()
        assert mine.untouched
        if recording:
            removed = data.draw(st.integers(0, keys.shape[2] - 1))
            mine.crop(-removed)
            own.crop(-removed)
            assert torch.equal(mine.keys, own.keys)
    assert mine.get_max_length() == own.get_max_length() if hasattr(own, "get_max_length") else True
    assert mine.is_sliding == own.is_sliding


def test_a_ragged_layer_takes_only_the_bytes_it_holds() -> None:
    layer = PrunedLayer()
    layer.update(torch.randn(1, HEADS, 10, DIM), torch.randn(1, HEADS, 10, DIM))
    assert layer.nbytes == 2 * HEADS * 10 * DIM * 4
    keep = torch.zeros(1, HEADS, 10, dtype=torch.bool)
    keep[0, 0, :7], keep[0, 1, :2] = True, True
    layer.evict(keep)
    assert layer.nbytes == 2 * (7 + 2) * DIM * 4
    assert layer.stored == 7
    layer.update(torch.randn(1, HEADS, 1, DIM), torch.randn(1, HEADS, 1, DIM))
    assert layer.nbytes == 2 * (7 + 2 + 2) * DIM * 4
    assert layer.lengths().tolist() == [[8, 3]]


def test_a_layer_that_forgot_everything_starts_anew() -> None:
    layer = PrunedLayer()
    layer.update(torch.randn(2, HEADS, 4, DIM), torch.randn(2, HEADS, 4, DIM))
    layer.evict(torch.rand(2, HEADS, 4) > 0.5)
    layer.reset()
    assert (layer.get_seq_length(), layer.stored, layer.nbytes, layer.untouched) == (0, 0, 0, True)
    keys = torch.randn(1, HEADS, 2, DIM)
    assert torch.equal(layer.update(keys, keys)[0], keys)


def test_crop_to_a_length_as_older_transformers_ask() -> None:
    layer = PrunedLayer()
    layer.update(torch.randn(1, HEADS, 6, DIM), torch.randn(1, HEADS, 6, DIM))
    layer.crop(torch.tensor(4))
    assert layer.get_seq_length() == layer.stored == 4
    layer.crop(9)
    assert layer.get_seq_length() == 4


# -- adopting and releasing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 3])
def test_adopting_and_releasing_changes_nothing(window: int | None) -> None:
    cache = DynamicCache()
    cache.layers = [DynamicLayer() if window is None else DynamicSlidingWindowLayer(window) for _ in range(2)]
    cache.layer_class_to_replicate = None
    states = torch.randn(1, HEADS, 5, DIM)
    cache.update(states, -states, 0)
    before = [layer.keys.clone() if layer.is_initialized else None for layer in cache.layers]
    adopt(cache, 2)
    assert all(type(layer) is PrunedLayer for layer in cache.layers)
    assert [layer.get_seq_length() for layer in cache.layers] == [5, 0]
    release(cache)
    kind = DynamicLayer if window is None else DynamicSlidingWindowLayer
    assert all(type(layer) is kind for layer in cache.layers)
    assert torch.equal(cache.layers[0].keys, before[0])
    assert not cache.layers[1].is_initialized
    assert cache.get_seq_length() == 5


def test_a_lazy_cache_gets_all_its_layers() -> None:
    cache = DynamicCache()
    adopt(cache, 3)
    assert [type(layer) for layer in cache.layers] == [PrunedLayer] * 3


def test_a_pruned_layer_is_refused_outside_and_accepted_again_inside() -> None:
    cache = DynamicCache()
    adopt(cache, 1)
    states = torch.randn(1, HEADS, 5, DIM)
    cache.update(states, states, 0)
    cache.layers[0].evict(torch.rand(1, HEADS, 5) > 0.5)
    release(cache)
    with pytest.raises(UnsupportedModeError, match=r"continue inside `with vtprune\.prune"):
        cache.update(states, states, 0)
    adopt(cache, 1)
    cache.update(states, states, 0)
    assert cache.get_seq_length() == 10


def test_other_caches_are_refused_untouched() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2)
    cache = StaticCache(config=config, max_cache_len=8)
    kinds = [type(layer) for layer in cache.layers]
    with pytest.raises(UnsupportedModeError, match="a StaticCache cannot be pruned: its layers cannot be shortened"):
        adopt(cache, 2)
    assert [type(layer) for layer in cache.layers] == kinds
