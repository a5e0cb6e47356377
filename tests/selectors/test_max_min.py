"""Greedy max-min distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.selectors.reference import distances, max_min
from tests.selectors.support import few, kept, noise, of, order
from vtprune.selectors.max_min import MaxMin

metrics = st.sampled_from(["cosine", "euclidean"])
starts = st.sampled_from(["farthest_neighbour", "farthest_from_mean"])


@few
@given(seed=st.integers(0, 10_000), count=st.integers(1, 15), metric=metrics, start=starts)
def test_equals_the_definition(seed: int, count: int, metric: str, start: str) -> None:
    """Every prefix leaves the same smallest distance, also where two nearly equal tokens swap."""
    _, features = noise(1, 20, 4, seed)
    x = features[0].double().numpy()
    found = order(MaxMin(metric=metric, start=start), of(count, None, features))
    expected = max_min(x, count, metric, start)
    assert found[0] == expected[0]
    apart = distances(x, metric)
    for step in range(2, count + 1):
        nearest = [
            min(apart[i, j] for i in chosen[:step] for j in chosen[:step] if i != j) for chosen in (found, expected)
        ]
        assert nearest[0] == pytest.approx(nearest[1], abs=1e-5)


@few
@given(
    seed=st.integers(0, 10_000), metric=metrics, start=starts, seeds=st.sets(st.integers(0, 19), min_size=1, max_size=5)
)
def test_protected_tokens_seed_the_set(seed: int, metric: str, start: str, seeds: set[int]) -> None:
    _, features = noise(1, 20, 4, seed)
    protected = torch.tensor([i in seeds for i in range(20)])
    found = kept(MaxMin(metric=metric, start=start), of(9, None, features, protected))
    assert found == [sorted(max_min(features[0].double().numpy(), 9, metric, start, sorted(seeds)))]


def test_seeded_and_free_rows_side_by_side() -> None:
    _, features = noise(2, 20, 4)
    protected = torch.zeros(2, 20, dtype=torch.bool)
    protected[1, 3] = True
    x = features.double().numpy()
    expected = [max_min(x[0], 6, "cosine", "farthest_neighbour"), max_min(x[1], 6, "cosine", "farthest_neighbour", [3])]
    assert kept(MaxMin(), of(6, None, features, protected)) == [sorted(row) for row in expected]


def test_the_greedy_set_is_within_half_of_the_best() -> None:
    """Greedy max-min dispersion from any start is a 2-approximation for metrics (Ravi et al., 1994)."""
    from itertools import combinations

    for seed in range(10):
        _, features = noise(1, 9, 3, seed)
        apart = distances(features[0].double().numpy(), "euclidean") + np.eye(9) * 1e9
        (found,) = kept(MaxMin(metric="euclidean"), of(4, None, features))
        best = max(apart[np.ix_(chosen, chosen)].min() for chosen in combinations(range(9), 4))
        assert apart[np.ix_(found, found)].min() >= best / 2


def test_an_outlier_and_the_metric() -> None:
    """By angle the tokens 0-2 are one; by distance token 2 is far away."""
    x = torch.tensor([[1.0, 0.0], [1.1, 0.0], [9.0, 0.0], [0.0, 1.0]])
    assert kept(MaxMin(), of(2, None, x)) == [[0, 3]]
    assert 2 in kept(MaxMin(metric="euclidean"), of(2, None, x))[0]


def test_the_start_matters() -> None:
    differs = 0
    for seed in range(10):
        _, features = noise(1, 20, 4, seed)
        near, mean = (
            kept(MaxMin(start=start), of(1, None, features)) for start in ("farthest_neighbour", "farthest_from_mean")
        )
        differs += near != mean
    assert differs > 0


def test_padding_does_not_count_as_diverse() -> None:
    """400 identical tokens and 176 others: one of the copies is enough."""
    _, features = noise(1, 576, 64)
    features[0, :400] = features[0, 0]
    (found,) = kept(MaxMin(), of(177, None, features))
    assert sum(index < 400 for index in found) == 1
    features[0, :400] = 0
    (found,) = kept(MaxMin(), of(177, None, features))
    assert sum(index < 400 for index in found) == 1


def test_scores_are_refused_upstream() -> None:
    assert not MaxMin().uses_scores


@pytest.mark.parametrize("bad", [{"metric": "manhattan"}, {"start": "random"}, {"feature": "queries"}])
def test_bad_parameters(bad: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        MaxMin(**bad)
