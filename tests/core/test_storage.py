"""Ragged storage against Python lists."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtprune.core.engine.storage import Packed, compact, flat_index

DIM = 3


def numbered(batch: int, heads: int, slots: int, dim: int = DIM) -> Tensor:
    """Every slot holds its own number in every entry."""
    return torch.arange(batch * heads * slots, dtype=torch.float32).view(batch, heads, slots, 1).expand(-1, -1, -1, dim)


@st.composite
def kept(draw: st.DrawFn) -> Tensor:
    """bool ``[batch, kv_head, slot]``."""
    batch, heads, slots = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    flat = draw(st.lists(st.booleans(), min_size=batch * heads * slots, max_size=batch * heads * slots))
    return torch.tensor(flat).view(batch, heads, slots)


def lists(keys: Tensor, keep: Tensor) -> list[list[list[float]]]:
    batch, heads, slots = keep.shape
    return [
        [[float(keys[b, h, s, 0]) for s in range(slots) if keep[b, h, s]] for h in range(heads)] for b in range(batch)
    ]


def pack(keep: Tensor) -> Packed:
    keys = numbered(*keep.shape)
    return Packed(*compact(keys, keys + 0.5, flat_index(keep)), keep.sum(-1))


def unpack(packed: Packed) -> list[list[list[float]]]:
    keys, values = packed.padded()
    assert torch.equal(values, keys + 0.5) or not packed.keys.numel()
    return lists(keys, packed.used)


@given(kept())
def test_the_flat_index_is_where_it_is_true(keep: Tensor) -> None:
    assert flat_index(keep).tolist() == [i for i, flag in enumerate(keep.flatten().tolist()) if flag]
    assert flat_index(keep.transpose(0, 2)).tolist() == [
        i for i, flag in enumerate(keep.transpose(0, 2).flatten().tolist()) if flag
    ]


@given(kept())
def test_packing_and_padding_give_everything_back(keep: Tensor) -> None:
    packed = pack(keep)
    assert unpack(packed) == lists(numbered(*keep.shape), keep)
    assert packed.width == int(keep.sum(-1).max())
    assert packed.keys.shape == (int(keep.sum()), DIM)
    assert packed.nbytes == 2 * int(keep.sum()) * DIM * 4
    assert torch.equal(packed.used.sum(-1), keep.sum(-1))


@given(kept())
def test_rows_are_right_aligned_and_fillers_are_finite(keep: Tensor) -> None:
    packed = pack(keep)
    assert bool((packed.used.int().diff(dim=-1) >= 0).all())
    assert all(bool(tensor.isfinite().all()) for tensor in packed.padded())


@given(kept(), st.data())
def test_choosing_samples(keep: Tensor, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, keep.shape[0] - 1), min_size=1, max_size=5))
    index = torch.tensor(chosen)
    packed = pack(keep).rows(lambda tensor: tensor.index_select(0, index))
    whole = lists(numbered(*keep.shape), keep)
    assert unpack(packed) == [whole[sample] for sample in chosen]
    assert packed.keys.shape[0] == sum(len(row) for sample in chosen for row in whole[sample])


def test_storage_of_nothing() -> None:
    packed = pack(torch.zeros(2, 3, 4, dtype=torch.bool))
    assert [tensor.shape for tensor in packed.padded()] == [(2, 3, 0, DIM)] * 2
    assert packed.nbytes == 0
    assert packed.rows(lambda tensor: tensor.repeat_interleave(2, 0)).lengths.tolist() == [[0, 0, 0]] * 4


def test_one_empty_row_among_full_ones() -> None:
    keep = torch.ones(2, 2, 3, dtype=torch.bool)
    keep[1, 1] = False
    assert unpack(pack(keep))[1] == [[6.0, 7.0, 8.0], []]


def test_packing_copies_so_that_the_rectangle_can_go() -> None:
    keep = torch.ones(1, 1, 4, dtype=torch.bool)
    keys = numbered(1, 1, 4).clone()
    flat, _ = compact(keys, keys, flat_index(keep))
    assert flat.untyped_storage().data_ptr() != keys.untyped_storage().data_ptr()
