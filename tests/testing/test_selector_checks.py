"""The checks of selectors find what is broken, each its own fault, and pass what is sound."""

from __future__ import annotations

import pytest
import torch

from tests.testing.broken import selectors as broken
from tests.testing.finding import assert_found, faults, names_in
from vtprune.core.component import Selector
from vtprune.testing.checks import devices, purity, selector_values, selectors
from vtprune.testing.inputs.candidates import FEATURES, candidates, hard_features, noise

NAMES = names_in(selectors, selector_values, kind="selector")
EVERY = NAMES | names_in(purity, devices, kind="selector")


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_check_finds_its_broken_selector(name: str) -> None:
    also = broken.ALSO.get(name, set())
    assert_found(name, broken.BROKEN[name], EVERY, also, unusable=name in broken.UNUSABLE)


def test_every_check_has_a_broken_selector() -> None:
    assert set(broken.BROKEN) == NAMES
    assert set(broken.ALSO) | broken.UNUSABLE <= NAMES


@pytest.mark.parametrize("sound", broken.SOUND)
def test_what_the_broken_ones_are_made_from_is_sound(sound: type[Selector]) -> None:
    assert faults(sound, EVERY) == {}


def test_an_end_that_is_off_by_one_is_found() -> None:
    found = faults(broken.AllButTheLast, EVERY)
    assert set(found) == {"infinite_scores_mean_always_and_never"}
    assert "the score of the first or last token is not read" in found["infinite_scores_mean_always_and_never"]


def test_hard_features_are_what_they_are_called() -> None:
    made = {kind: hard_features(kind, 2, 9, 4) for kind in FEATURES}
    assert all(features.shape == (2, 9, 4) and features.isfinite().all() for features in made.values())
    assert 0 < made["denormal"].abs().amax() < torch.finfo(torch.float32).tiny
    assert made["huge"].square().sum(-1).isinf().all()
    assert made["tiny"].square().sum(-1).eq(0).all()
    assert made["rank one"].double().svd()[1][:, 1].max() < 1e-6
    assert made["duplicates"][0].unique(dim=0).shape[0] == 3
    with pytest.raises(ValueError, match="rank one"):
        hard_features("flat", 1, 1)


def test_candidates_need_scores_or_features() -> None:
    with pytest.raises(ValueError, match="scores or features"):
        candidates(3)
    scores, _ = noise(1, 5)
    assert candidates(3, scores[0]).protected.shape == (1, 5)
