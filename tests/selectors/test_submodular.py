"""Facility location and log-determinant: greedy steps, diminishing returns, and the 1 - 1/e bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from tests.selectors.reference import facility, gains, gram, min_max, volume
from tests.selectors.support import few, kept, noise, of, order
from vtprune.core.component import Selector
from vtprune.selectors.facility_location import WEIGHT_FLOOR, FacilityLocation, coverage
from vtprune.selectors.log_det import QUALITY_FLOOR, LogDet, log_det

Value = Callable[[Sequence[int]], float]
SELECTORS = [
    FacilityLocation(),
    FacilityLocation(similarity="relu"),
    FacilityLocation(weight="none"),
    LogDet(),
    LogDet(ridge=1.0),
    LogDet(ridge=0.05, strength=3.0),
    LogDet(weight="none", ridge=0.2),
]
submodular = pytest.mark.parametrize("selector", SELECTORS, ids=str)


def value_of(selector: Selector, scores: Tensor, features: Tensor) -> Value:
    """The selector's objective from its definition, in float64."""
    w, cos = scores[0].double().numpy(), gram(features[0].double().numpy())
    if isinstance(selector, FacilityLocation):
        similarity = (1 + cos) / 2 if selector.similarity == "shifted" else np.maximum(cos, 0)
        weights = min_max(w, WEIGHT_FLOOR) if selector.weight == "scores" else np.ones_like(w)
        return lambda chosen: facility(similarity, weights, chosen)
    assert isinstance(selector, LogDet)
    quality = min_max(w, QUALITY_FLOOR) ** selector.strength if selector.weight == "scores" else np.ones_like(w)
    kernel = quality[:, None] * cos * quality
    shift = math.log(selector.ridge) if selector.ridge else 0.0
    return lambda chosen: volume(kernel, selector.ridge, chosen) - shift * len(chosen)


def check_steps(selector: Selector, scores: Tensor, features: Tensor, count: int, slack: float) -> list[float]:
    """Assert that every pick has the largest gain; return the gains."""
    value, chosen, won = value_of(selector, scores, features), [], []
    for pick in order(selector, of(count, scores, features)):
        gain = gains(value, chosen, features.shape[1])
        assert gain[pick] >= max(gain.values()) - slack
        chosen.append(pick)
        won.append(gain[pick])
    return won


@submodular
@settings(few, max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_every_pick_has_the_largest_gain_and_gains_diminish(selector: Selector, seed: int) -> None:
    scores, features = noise(1, 20, 8, seed)
    won = check_steps(selector, scores, features, 7, 1e-3 if isinstance(selector, LogDet) else 1e-4)
    assert all(later <= earlier + 1e-3 for earlier, later in pairwise(won))


@pytest.mark.parametrize("selector", [FacilityLocation(), LogDet()], ids=str)
def test_every_pick_has_the_largest_gain_beyond_one_lazy_batch(selector: Selector) -> None:
    check_steps(selector, *noise(1, 90, 12, 3), 8, 1e-4)


def test_the_plain_determinant_follows_its_gains() -> None:
    for seed in range(5):
        check_steps(LogDet(ridge=0.0), *noise(1, 20, 12, seed), 9, 1e-3)


@submodular
@settings(few, max_examples=8)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4))
def test_greedy_reaches_its_share_of_the_optimum(selector: Selector, seed: int, count: int) -> None:
    scores, features = noise(1, 8, 3, seed)
    value = value_of(selector, scores, features)
    best = max(value(chosen) for chosen in combinations(range(8), count))
    (found,) = kept(selector, of(count, scores, features))
    assert value(found) >= (1 - 1 / math.e) * best - 1e-6


@pytest.mark.parametrize("selector", SELECTORS[:4], ids=str)
def test_the_public_objective_functions_agree_with_the_definition(selector: Selector) -> None:
    scores, features = noise(1, 8, 3)
    value, cos = value_of(selector, scores, features), torch.tensor(gram(features[0].double().numpy()))
    w = scores[0].double().numpy()
    for chosen in [(), (2,), (0, 3, 7)]:
        mask = torch.tensor([i in chosen for i in range(8)])
        if isinstance(selector, FacilityLocation):
            similarity = (1 + cos) / 2 if selector.similarity == "shifted" else cos.clamp(min=0)
            weights = torch.tensor(min_max(w, WEIGHT_FLOOR) if selector.weight == "scores" else np.ones(8))
            assert coverage(similarity, weights, mask) == pytest.approx(value(chosen))
        elif isinstance(selector, LogDet):
            quality = torch.tensor(min_max(w, QUALITY_FLOOR))
            found = log_det(quality[:, None] * cos * quality, mask, selector.ridge)
            assert found == pytest.approx(value(chosen), abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FacilityLocation(), FacilityLocation(similarity="relu")),
        (FacilityLocation(), FacilityLocation(weight="none")),
        (LogDet(), LogDet(weight="none")),
        (LogDet(), LogDet(ridge=10.0)),
        (LogDet(), LogDet(strength=4.0)),
    ],
    ids=str,
)
def test_every_parameter_changes_a_choice(one: Selector, other: Selector) -> None:
    candidates = of(6, *noise(10, 30, 5))
    assert kept(one, candidates) != kept(other, candidates)


def test_without_weight_scores_are_not_used() -> None:
    for selector in (FacilityLocation(weight="none"), LogDet(weight="none")):
        assert not selector.uses_scores
    assert FacilityLocation().uses_scores
    assert LogDet().uses_scores


def test_coverage_goes_where_the_weight_is() -> None:
    """Two directions; the one whose tokens score high is covered first."""
    x = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 2)
    assert kept(FacilityLocation(weight="none"), of(1, None, x)) == [[0]]
    assert kept(FacilityLocation(), of(1, torch.tensor([0.0] * 5 + [1.0] * 2), x)) == [[5]]


def test_when_the_rank_is_exhausted_quality_decides() -> None:
    """Rank 2: two picks span everything, the other three are the best scores left."""
    scores = torch.tensor([0.9, 0.2, 0.5, 0.8, 0.1, 0.7])
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[[0, 1, 0, 0, 1, 0]]
    assert kept(LogDet(ridge=0.0), of(5, scores, x)) == [[0, 1, 2, 3, 5]]
    assert kept(LogDet(ridge=0.0), of(3, scores, x)) == [[0, 1, 3]]


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_log_det_of_low_rank_at_real_size(ridge: float) -> None:
    """More tokens wanted than dimensions: the official CDPruner loop repeats itself or gives NaN here."""
    scores, features = noise(2, 300, 16)
    found = kept(LogDet(ridge=ridge), of([120, 40], scores, features))
    assert [len(row) for row in found] == [120, 40]


def test_scores_are_scaled_row_by_row() -> None:
    scores, features = noise(2, 20, 5)
    apart = torch.stack([scores[0], 100 + scores[1]])
    for selector in (FacilityLocation(), LogDet()):
        assert kept(selector, of(6, apart, features)) == kept(selector, of(6, scores, features))


def test_strength_without_scores_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"strength=2\.0 has no effect with weight='none'"):
        LogDet(weight="none", strength=2.0)


@pytest.mark.parametrize("bad", [{"ridge": -1.0}, {"strength": 0.0}, {"weight": "score"}, {"jitter": 1.0}])
def test_bad_log_det(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LogDet(**bad)


@pytest.mark.parametrize("bad", [{"similarity": "dot"}, {"weight": "uniform"}])
def test_bad_facility_location(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FacilityLocation(**bad)
