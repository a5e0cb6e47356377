"""top_k, threshold and top_p."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.selectors.reference import by_score
from tests.selectors.support import few, kept, noise, of
from vtprune.core.errors import ComponentError
from vtprune.selectors.threshold import Threshold, TopP
from vtprune.selectors.top_k import TopK

levels = st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("inf"), float("-inf")])


@few
@given(scores=st.lists(levels, min_size=1, max_size=20), data=st.data())
def test_top_k_equals_sorting(scores: list[float], data: st.DataObject) -> None:
    protected = data.draw(st.sets(st.integers(0, len(scores) - 1)))
    count = data.draw(st.integers(len(protected), len(scores)))
    mask = torch.tensor([i in protected for i in range(len(scores))])
    found = kept(TopK(), of(count, torch.tensor(scores), protected=mask))
    assert found == [by_score(scores, count, sorted(protected))]


@few
@given(seed=st.integers(0, 10_000), count=st.integers(0, 20))
def test_top_k_sees_only_the_order(seed: int, count: int) -> None:
    scores, _ = noise(2, 20, seed=seed)
    assert kept(TopK(), of(count, scores)) == kept(TopK(), of(count, scores.double().pow(3).mul(5).sub(9)))


def test_top_k_never_waits_for_the_scores() -> None:
    """On the meta device there are no values, so any read of one would raise."""
    meta = of([3, 1], torch.zeros(2, 5, device="meta"), protected=torch.zeros(2, 5, dtype=torch.bool, device="meta"))
    assert TopK().select(meta).shape == (2, 5)


def test_threshold_is_inclusive_at_float32() -> None:
    scores = torch.tensor([0.1, 0.7, 0.3, 0.9])
    assert kept(Threshold(value=0.7), of(4, scores)) == [[1, 3]]
    assert kept(Threshold(value=0.71), of(4, scores)) == [[3]]


def test_threshold_relative_to_each_row() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.4, 0.1], [1.0, 2.0, 8.0, 5.0]])
    assert kept(Threshold(value=0.5, relative="max"), of(4, scores)) == [[1, 2], [2, 3]]
    assert kept(Threshold(value=1.0, relative="mean"), of(4, scores)) == [[1, 2], [2, 3]]
    assert kept(Threshold(value=0.4, relative="mean"), of(4, scores)) == [[0, 1, 2, 3], [1, 2, 3]]
    assert kept(Threshold(value=0.5), of(4, scores)) == [[2], [0, 1, 2, 3]]


def test_counts_are_an_upper_bound_and_minimum_a_lower_one() -> None:
    scores = torch.tensor([0.6, 0.9, 0.1, 0.8])
    assert kept(Threshold(value=0.5), of(2, scores)) == [[1, 3]]
    assert kept(Threshold(value=2.0), of(4, scores)) == [[1]]
    assert kept(Threshold(value=2.0, minimum=3), of(4, scores)) == [[0, 1, 3]]
    assert kept(Threshold(value=2.0, minimum=3), of(2, scores)) == [[1, 3]]
    assert kept(Threshold(value=2.0, minimum=0), of(4, scores)) == [[]]
    assert kept(TopP(p=0.1, minimum=2), of(4, scores)) == [[1, 3]]


def test_protected_tokens_are_kept_beside_those_that_pass_and_count() -> None:
    scores, protected = torch.tensor([0.6, 0.9, 0.1, 0.8]), torch.tensor([False, False, True, False])
    assert kept(Threshold(value=0.7), of(4, scores, protected=protected)) == [[1, 2, 3]]
    assert kept(Threshold(value=0.7), of(2, scores, protected=protected)) == [[1, 2]]
    assert kept(Threshold(value=2.0), of(4, scores, protected=protected)) == [[2]]


def test_a_negative_reference_is_refused() -> None:
    with pytest.raises(ComponentError, match=r"relative='max'.*-0\.5.*absolute"):
        Threshold(value=0.5, relative="max").select(of(2, torch.tensor([-0.5, -1.0])))
    assert kept(Threshold(value=-0.7), of(2, torch.tensor([-0.5, -1.0]))) == [[0]]


@few
@given(scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=15), p=st.floats(0.01, 1.0))
def test_top_p_is_the_smallest_set_that_holds_the_mass(scores: list[float], p: float) -> None:
    (found,) = kept(TopP(p=p, minimum=0), of(len(scores), torch.tensor(scores)))
    total, mass = sum(scores), sum(scores[i] for i in found)
    assert found == by_score(scores, len(found))
    assert mass >= p * total * (1 - 2e-6)
    if found:
        assert mass - min(scores[i] for i in found) < p * total


def test_top_p_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert kept(TopP(p=0.9), of(4, scores)) == [[1, 2], [0, 1, 2, 3]]
    assert kept(TopP(p=0.5), of(4, scores)) == [[1], [0, 1]]
    assert kept(TopP(p=1.0), of(4, scores)) == [[0, 1, 2], [0, 1, 2, 3]]
    assert kept(TopP(p=0.5), of(4, torch.zeros(4))) == [[0]]


def test_top_p_needs_masses() -> None:
    with pytest.raises(ComponentError, match=r"-0\.25.*softmax"):
        TopP(p=0.5).select(of(2, torch.tensor([0.5, -0.25])))


def test_these_need_no_budget_and_say_so() -> None:
    for selector in (Threshold(value=0.0), TopP(p=0.5)):
        assert not selector.count_is_exact
        assert not selector.needs_count
    assert TopK().count_is_exact
    assert TopK().needs_count


@pytest.mark.parametrize("bad", [{"p": 0.0}, {"p": 1.1}, {"p": 0.5, "minimum": -1}, {}])
def test_bad_top_p(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TopP(**bad)


@pytest.mark.parametrize("bad", [{"value": float("nan")}, {"value": 1.0, "relative": "median"}, {}])
def test_bad_threshold(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Threshold(**bad)
