from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.allocators.requests import request, signals, totals
from vtprune.allocators.uniform import Uniform
from vtprune.core.budget import Budget


def test_every_layer_gets_the_target():
    assert totals(Uniform(), target=4, layers=(2, 3, 9)) == [4, 4, 4]


def test_counts_are_int64_on_the_cpu_for_every_sample():
    counts = Uniform().allocate(request(6, sizes=(4, 8)), signals(batch=3)).counts
    assert counts.dtype == torch.int64
    assert counts.device.type == "cpu"
    assert counts.tolist() == [[2, 4]] * 3


@pytest.mark.parametrize(
    ("target", "spans", "expected"),
    [
        (Fraction(9, 2), (1, 1), [5, 4]),
        (Fraction(14, 3), (1, 1, 1), [5, 5, 4]),
        (Fraction("4.6"), (1, 1, 1), [5, 4, 4]),  # 13.8 in sum: 13 without exceeding
        (Fraction("4.99"), (30,), [4]),  # one layer that governs 30: 4.99 * 30 is less than 5 * 30
        (Fraction(9, 2), (8, 8, 4), [5, 4, 4]),  # 10 spare: enough for the first 8, not for the second
        (Fraction(9, 2), (8, 2, 1), [4, 4, 4]),  # 5 spare: the first does not fit, and later ones may not hold more
    ],
)
def test_fractions_go_to_the_earlier_layers(target, spans, expected):
    assert totals(Uniform(), target=target, layers=tuple(range(len(spans))), spans=spans) == expected


@given(
    target=st.fractions(0, 10, max_denominator=60),
    spans=st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple),
)
def test_the_target_is_met_without_exceeding_it(target, spans):
    counts = totals(Uniform(), target=target, layers=tuple(range(len(spans))), spans=spans)
    short = target * sum(spans) - sum(count * span for count, span in zip(counts, spans, strict=True))
    assert 0 <= short < max(spans)
    assert counts == sorted(counts, reverse=True)
    assert max(counts) - min(counts) <= 1


def test_images_share_in_proportion_to_their_size_in_the_prompt():
    allocation = Uniform().allocate(request(7, sizes=(10, 10), original=(20, 10)), signals())
    assert allocation.counts.tolist() == [[5, 2]]


def test_what_an_image_has_lost_goes_to_the_others():
    allocation = Uniform().allocate(request(9, sizes=(2, 10), original=(20, 10)), signals())
    assert allocation.counts.tolist() == [[2, 7]]


def test_a_budget_above_the_survivors_keeps_them_all():
    assert Uniform().allocate(request(9, sizes=(2, 3), original=(6, 6)), signals()).counts.tolist() == [[2, 3]]


def test_without_a_budget_every_token_is_granted():
    assert Uniform().allocate(request(None, sizes=(2, 3), original=(6, 6)), signals()).counts.tolist() == [[2, 3]]


def test_a_sample_without_vision_tokens():
    assert Uniform().allocate(request(0, sizes=()), signals(batch=2)).counts.shape == (2, 0)


def test_it_needs_a_budget_and_is_static():
    assert "needs a budget" in Uniform().budget_problem(None)
    assert Uniform().budget_problem(Budget.model_validate(0.5)) is None
    assert Uniform().count_is_static
