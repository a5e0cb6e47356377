from __future__ import annotations

import math

import pytest
import torch
from vtprune_borrowed.mmr import Mmr

from vtprune.plugin import Candidates, ComponentError


def candidates(scores: torch.Tensor, features: torch.Tensor, count: int, protected: tuple[int, ...] = ()) -> Candidates:
    """One row."""
    mask = torch.zeros(1, len(scores), dtype=torch.bool)
    mask[0, list(protected)] = True
    return Candidates(torch.tensor([count]), len(scores), scores[None], features[None], mask)


def kept(selector: Mmr, given: Candidates) -> set[int]:
    return set(selector.select(given)[0].nonzero().flatten().tolist())


def by_the_formula(relevance: float, scores: list[float], features: list[list[float]], count: int) -> set[int]:
    """Maximal marginal relevance in plain Python, one comparison at a time."""
    low, high = min(scores), max(scores)
    chosen: list[int] = []
    while len(chosen) < count:
        gains = {}
        for token in set(range(len(scores))) - set(chosen):
            alike = [
                sum(a * b for a, b in zip(features[token], features[other], strict=True))
                / math.hypot(*features[token])
                / math.hypot(*features[other])
                for other in chosen
            ]
            gains[token] = relevance * (scores[token] - low) / (high - low) - (1 - relevance) * max(alike, default=-1)
        chosen.append(max(gains, key=lambda token: gains[token]))
    return set(chosen)


@pytest.mark.parametrize("relevance", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_the_formula(relevance: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(24, generator=generator)
    features = torch.randn(24, 6, generator=generator)
    expected = by_the_formula(relevance, scores.double().tolist(), features.double().tolist(), 9)
    assert kept(Mmr(relevance=relevance), candidates(scores, features, 9)) == expected


def test_with_full_relevance_the_highest_scores_are_kept() -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))
    features = torch.ones(50, 3)
    assert kept(Mmr(relevance=1.0), candidates(scores, features, 7)) == set(scores.topk(7).indices.tolist())


def test_a_second_look_at_the_same_thing_gives_way_to_something_new() -> None:
    scores = torch.tensor([1.0, 0.95, 0.4, 0.0])
    features = torch.tensor([[1.0, 0.0], [2.0, 0.01], [0.0, 1.0], [1.0, 1.0]])
    assert kept(Mmr(relevance=1.0), candidates(scores, features, 2)) == {0, 1}
    assert kept(Mmr(relevance=0.6), candidates(scores, features, 2)) == {0, 2}


def test_what_is_protected_counts_as_kept() -> None:
    scores = torch.tensor([1.0, 0.9, 0.0, 0.0])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.001], [0.5, 0.5]])
    assert kept(Mmr(), candidates(scores, features, 2)) == {0, 1}
    assert kept(Mmr(), candidates(scores, features, 2, protected=(2,))) == {1, 2}


def test_infinite_scores() -> None:
    scores = torch.tensor([-torch.inf, 0.0, 1.0, torch.inf])
    assert kept(Mmr(), candidates(scores, torch.eye(4), 1)) == {3}
    assert kept(Mmr(), candidates(scores, torch.eye(4), 3)) == {1, 2, 3}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_named(bad: float) -> None:
    features = torch.eye(4)
    features[2, 1] = bad
    with pytest.raises(ComponentError, match="in 1 of 4 tokens"):
        Mmr().select(candidates(torch.arange(4.0), features, 2))
