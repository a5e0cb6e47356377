"""The checks of scorers find what is broken, each its own fault, and pass what is sound."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.testing.broken import scorers as broken
from tests.testing.finding import faults, names_in
from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals
from vtprune.testing.checks import devices, purity, randomness, reading, scorer_values, scorers

NAMES = names_in(scorers, scorer_values, randomness, reading, kind="scorer")
EVERY = NAMES | names_in(purity, devices, kind="scorer")


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_check_finds_its_broken_scorer(name: str) -> None:
    found = faults(broken.BROKEN[name], EVERY)
    assert set(found) == {name, *broken.ALSO.get(name, ())}, found
    assert "likely cause" in found[name], found[name]


def test_every_check_has_a_broken_scorer() -> None:
    assert set(broken.BROKEN) == NAMES
    assert set(broken.ALSO) <= NAMES


@pytest.mark.parametrize("sound", broken.SOUND)
def test_what_the_broken_ones_are_made_from_is_sound(sound: type[Scorer]) -> None:
    assert faults(sound, EVERY) == {}


@pytest.mark.parametrize("scorer", [broken.FromItsSpan, broken.AllButTheLast])
def test_spans_of_the_prompt_and_ends_that_are_off_by_one_are_found(scorer: type[Scorer]) -> None:
    found = faults(scorer, EVERY)
    assert set(found) == {"permuted_tokens_permute_scores"}
    assert "survivors were indexed by `segment.start`" in found["permuted_tokens_permute_scores"]


def test_query_heads_are_no_kv_heads() -> None:
    found = faults(broken.QueryHeads, EVERY)["scores_have_the_declared_shape"]
    assert "[1, 6, 12], expected [batch, kv_head, vision] = [1, 2, 12]" in found
    assert "query heads were left where KV heads belong" in found


def test_a_crash_is_reported_with_the_line_and_the_likely_cause() -> None:
    found = faults(broken.ByGrid, EVERY)["scores_without_a_grid"]
    assert found.startswith("raised TypeError")
    assert "broken/scorers.py" in found.replace("\\", "/")
    assert "likely cause: `segment.grid` was read, which is None for some families" in found


@pytest.mark.parametrize(
    ("scorer", "library"),
    [(broken.Seeding, "torch"), (broken.SeedingNumpy, "numpy"), (broken.SeedingPython, "Python")],
)
def test_the_global_generator_is_named(scorer: type[Scorer], library: str) -> None:
    found = faults(scorer, EVERY)
    assert set(found) == {"global_generators_are_left_alone"}
    assert f"the global generator of {library} was drawn from or seeded" in found["global_generators_are_left_alone"]


def test_an_axis_too_many_has_one_cause_everywhere() -> None:
    class PerHead(Scorer):
        """Scores per head, of a scorer of tokens."""

        def needs(self) -> frozenset[Need]:
            return frozenset({Need("keys")})

        def score(self, signals: Signals) -> Tensor:
            return signals.keys().float().norm(dim=-1)

    for name in ("scores_of_crops", "scores_of_videos"):
        assert "likely cause: an axis was not reduced" in faults(PerHead, [name])[name]
