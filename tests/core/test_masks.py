"""Rewritten masks against loops over every query and slot."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vtprune.core.engine.masks import Queries, Slots, rewrite

MINIMUM = torch.finfo(torch.float32).min
GROUPS = 2


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """A compact problem: ``past`` logical tokens before, ``length`` new ones, some of either gone."""
    batch, past, length = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.integers(1, 5))
    heads = draw(st.sampled_from([None, 1, 2]))

    def rows(count: int, total: int, start: int) -> tuple[Tensor, Tensor]:
        """Left-filled rows of chosen positions, ``[count, token]``."""
        kept = [sorted(draw(st.sets(st.integers(0, total - 1), min_size=1))) if total else [] for _ in range(count)]
        width = max(map(len, kept))
        index, valid = torch.zeros(count, width, dtype=torch.int64), torch.zeros(count, width, dtype=torch.bool)
        for row, chosen in enumerate(kept):
            index[row, width - len(chosen) :] = torch.tensor(chosen, dtype=torch.int64) + start
            valid[row, width - len(chosen) :] = True
        return index, valid

    moved = draw(st.booleans())
    if moved:
        index, valid = rows(batch, length, 0)
    else:
        index, valid = torch.arange(length).expand(batch, -1), torch.ones(batch, length, dtype=torch.bool)
    queries = Queries(index, index + past, valid, bool(valid.all()), moved)
    before, real = rows(batch * (heads or 1), past, 0)
    positions, stored = queries.positions, valid
    if heads:
        before, real = before.view(batch, heads, -1), real.view(batch, heads, -1)
        positions, stored = (t[:, None].expand(-1, heads, -1) for t in (positions, stored))
    whole, visible = torch.cat([before, positions], -1), torch.cat([real, stored], -1)
    offset = draw(st.integers(0, past))
    slots = Slots(whole, visible, bool(visible.all()))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    native = torch.rand(draw(st.sampled_from([1, batch])), 1, length, past + length - offset, generator=generator) > 0.4
    return {"queries": queries, "slots": slots, "offset": offset, "native": native, "past": past}


def position(problem: dict, sample: int, head: int, slot: int) -> tuple[int, bool]:
    slots: Slots = problem["slots"]
    at = (sample, head, slot) if slots.per_head else (sample, slot)
    return int(slots.positions[at]), bool(slots.valid[at])


def expected(problem: dict, sees: object) -> Tensor:
    """bool ``[batch, head, query, slot]``, one entry at a time; ``sees(sample, query, position)`` is the rule."""
    queries, slots = problem["queries"], problem["slots"]
    batch, new = queries.index.shape
    heads, count = (slots.positions.shape[1] if slots.per_head else 1), slots.positions.shape[-1]
    result = torch.zeros(batch, heads, new, count, dtype=torch.bool)
    for sample in range(batch):
        for head in range(heads):
            for query in range(new):
                for slot in range(count):
                    where, real = position(problem, sample, head, slot)
                    allowed = real and where >= problem["offset"] and sees(sample, query, where)  # type: ignore[operator]
                    own = not queries.valid[sample, query] and slot == count - new + query
                    result[sample, head, query, slot] = allowed or own
    return result.repeat_interleave(GROUPS, 1) if slots.per_head else result


def rewritten(problem: dict, mask: Tensor | None, **options: object) -> Tensor | None:
    usual = {"groups": GROUPS, "additive": None, "flash": False, "causal": True, "window": None, **options}
    return rewrite(mask, problem["queries"], problem["slots"], offset=problem["offset"], **usual)  # type: ignore[arg-type]


def by_native(problem: dict) -> object:
    native, queries, offset = problem["native"], problem["queries"], problem["offset"]

    def sees(sample: int, query: int, where: int) -> bool:
        return bool(native[sample if len(native) > 1 else 0, 0, queries.index[sample, query], where - offset])

    return sees


@settings(deadline=None)
@given(problems())
def test_a_bool_mask(problem: dict) -> None:
    seen = rewritten(problem, problem["native"])
    assert torch.equal(seen, expected(problem, by_native(problem)))


@settings(deadline=None)
@given(problems())
def test_an_additive_mask_keeps_its_numbers(problem: dict) -> None:
    native = problem["native"]
    additive = torch.zeros(native.shape).masked_fill(~native, MINIMUM)
    seen = rewritten(problem, additive)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, torch.zeros(seen.shape).masked_fill(~expected(problem, by_native(problem)), MINIMUM))


@settings(deadline=None)
@given(problems())
def test_a_bias_in_an_additive_mask_survives(problem: dict) -> None:
    bias = torch.randn(problem["native"].shape)
    seen, queries, slots = rewritten(problem, bias), problem["queries"], problem["slots"]
    for sample in range(seen.shape[0]):
        for query in range(seen.shape[2]):
            for slot in range(seen.shape[3]):
                where, real = position(problem, sample, 0, slot)
                if queries.valid[sample, query] and real and where >= problem["offset"]:
                    row = bias[sample if len(bias) > 1 else 0, 0, queries.index[sample, query]]
                    assert seen[sample, 0, query, slot] == row[where - problem["offset"]]
    assert seen.shape[1] == (slots.positions.shape[1] * GROUPS if slots.per_head else 1)


@settings(deadline=None)
@given(problems(), st.sampled_from([None, 2, 4]), st.booleans(), st.sampled_from([None, torch.float32, torch.bfloat16]))
def test_a_mask_made_from_nothing(
    problem: dict, window: int | None, causal: bool, additive: torch.dtype | None
) -> None:
    seen = rewritten(problem, None, window=window, causal=causal, additive=additive)
    if problem["slots"].all_valid and not problem["offset"]:
        assert seen is None
        return

    def sees(sample: int, query: int, where: int) -> bool:
        at = int(problem["queries"].positions[sample, query])
        return (where <= at or not causal) and (window is None or where > at - window)

    allowed = expected(problem, sees)
    if additive is None:
        assert torch.equal(seen, allowed)
    else:
        zeros = torch.zeros(allowed.shape, dtype=additive)
        assert torch.equal(seen, zeros.masked_fill(~allowed, torch.finfo(additive).min))


@settings(deadline=None)
@given(problems(), st.booleans())
def test_a_padding_mask_for_flash_kernels(problem: dict, given_mask: bool) -> None:
    slots, offset = problem["slots"], problem["offset"]
    batch, logical = slots.positions.shape[0], problem["native"].shape[-1]
    padding = (torch.rand(batch, logical) > 0.3).long() if given_mask else None
    seen = rewritten(problem, padding, flash=True)
    if padding is None and slots.all_valid and not offset:
        assert seen is None
        return
    assert seen.dtype == torch.bool
    for sample in range(batch):
        for slot in range(slots.positions.shape[-1]):
            where, real = position(problem, sample, 0, slot)
            visible = real and where >= offset and (padding is None or bool(padding[sample, where - offset]))
            assert seen[sample, slot] == visible


@settings(deadline=None)
@given(problems())
def test_no_row_is_left_without_a_key_it_can_see(problem: dict) -> None:
    """A causal mask shows every real query its own key; fillers are shown theirs."""
    seen = rewritten(problem, None)
    if seen is not None:
        assert bool(seen.any(-1).all())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_rewriting_leaves_the_given_mask_alone(dtype: torch.dtype) -> None:
    index = torch.tensor([[0, 0, 2], [0, 1, 2]])
    valid = torch.tensor([[False, True, True], [True, True, True]])
    queries = Queries(index, index, valid, False, True)
    mask = torch.ones(2, 1, 3, 3).to(dtype)
    before = mask.clone()
    rewrite(
        mask,
        queries,
        Slots(index, valid, False),
        offset=0,
        groups=1,
        additive=None,
        flash=False,
        causal=True,
        window=None,
    )
    assert torch.equal(mask, before)


@pytest.mark.parametrize("per_head", [False, True])
def test_slots_followed_by_new_ones_are_held_by_every_head(per_head: bool) -> None:
    positions = torch.tensor([[[0, 3], [1, 2]], [[0, 1], [2, 3]]]) if per_head else torch.tensor([[0, 3], [1, 2]])
    before = Slots(positions, torch.ones_like(positions, dtype=torch.bool), True)
    new = Slots(torch.tensor([[4, 4, 5], [4, 5, 6]]), torch.tensor([[False, True, True], [True, True, True]]), False)
    both = before.followed_by(new)
    assert (both.per_head, both.all_valid) == (per_head, False)
    heads = 2 if per_head else 1
    for sample in range(2):
        for head in range(heads):
            where = (sample, head) if per_head else (sample,)
            assert both.positions[where].tolist() == [*positions[where].tolist(), *new.positions[sample].tolist()]
            assert both.valid[where].tolist() == [True, True, *new.valid[sample].tolist()]
    assert new.followed_by(new).positions.tolist() == [[4, 4, 5] * 2, [4, 5, 6] * 2]
