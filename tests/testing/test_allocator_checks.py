"""The checks of allocators find what is broken, each its own fault, and pass what is sound."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from tests.testing.broken import allocators as broken
from tests.testing.finding import faults, names_in
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.errors import ComponentError
from vtprune.core.signals import Signals
from vtprune.testing.checks import allocators, devices, purity, randomness, reading
from vtprune.testing.inputs.layouts import like_survivors, one_image
from vtprune.testing.inputs.requests import PLACES, Asked, accepted, budgets, chain

NAMES = names_in(allocators, reading, kind="allocator")
EVERY = NAMES | names_in(purity, devices, randomness, kind="allocator")


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_check_finds_its_broken_allocator(name: str) -> None:
    found = faults(broken.BROKEN[name], EVERY)
    assert set(found) == {name, *broken.ALSO.get(name, ())}, found
    assert "likely cause" in found[name], found[name]


def test_every_check_has_a_broken_allocator() -> None:
    assert set(broken.BROKEN) == NAMES
    assert set(broken.ALSO) <= NAMES


@pytest.mark.parametrize("sound", broken.SOUND)
def test_what_the_broken_ones_are_made_from_is_sound(sound: type[Allocator]) -> None:
    assert faults(sound, EVERY) == {}


def test_a_budget_may_not_be_exceeded_either() -> None:
    found = faults(broken.Exceeding, EVERY)
    assert set(found) == {"counts_meet_the_budget"}
    assert "a mean of 2 over the decoder layers governed, but the budget is 1.067" in found["counts_meet_the_budget"]


def test_counts_that_secretly_follow_the_signals_are_not_static() -> None:
    found = faults(broken.SecretlyDynamic, EVERY)
    assert {"static_counts_ignore_the_signals", "reads_only_what_it_declares"} <= set(found)
    assert "counts are [6] for ordinary signals and [0] for others (zeros)" in found["static_counts_ignore_the_signals"]


def test_targets_are_those_of_the_engine() -> None:
    place = next(place for place in PLACES if place.layers == (1, 3))
    assert place.spans == (2, 1)
    (half,) = [one for one in budgets("mean_tokens_over_layers", place, 12) if one.value == 0.77 * 12]
    assert Asked(place, half).target(one_image()) == (Fraction("9.24") * 4 - 12) / 3


def test_a_stage_that_drops_tokens_hands_on_what_is_left() -> None:
    places = {place.name: place for place in PLACES}
    (budget,) = [one for one in budgets("keep_ratio", places["llm.layers[1:]"], 22) if one.value == 0.01]
    asked = Asked(places["llm.layers[1:]"], budget, "image")
    assert [counts.tolist() for counts in chain(broken.Even(), asked, like_survivors())] == [[0, 0, 0, 1]] * 3


class OnlyAtLayerTwo(broken.Even):
    """Fits a stage at layer 2 alone."""

    def allocate(self, request, signals):
        if request.layers != (2,):
            raise ComponentError("only at layer 2")
        return super().allocate(request, signals)


def test_an_allocator_is_asked_where_it_fits() -> None:
    assert [place.name for place in accepted(OnlyAtLayerTwo())] == ["llm.layers[2]", "llm.layers[2].kv"]
    assert faults(OnlyAtLayerTwo, EVERY) == {}


class OneImageOnly(broken.Even):
    """Cannot share a budget between images."""

    def allocate(self, request, signals):
        if len(request.sizes) > 1:
            raise ComponentError("one image, please")
        return super().allocate(request, signals)


def test_to_refuse_some_samples_is_a_fault() -> None:
    found = faults(OneImageOnly, NAMES)
    assert "raised ComponentError: one image, please" in found["counts_fit_the_segments"]


class Rising(broken.Even):
    """Half as many tokens at the first layer of several, and twice as many at the last one, where they still are."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        counts = super().allocate(request, signals).counts
        if len(request.layers) > 1 and request.layer == request.layers[0]:
            counts = counts // 2
        elif len(request.layers) > 1 and request.layer == request.layers[-1]:
            counts = torch.minimum(counts * 2, torch.tensor(request.sizes))
        return Allocation(counts)


def test_counts_that_rise_are_told_where_they_can_work() -> None:
    checks = "counts_meet_the_budget", "whole_budget_keeps_everything"
    found = faults(Rising, checks)
    for name in checks:
        assert "llm.layers[1:], " in found[name]
        assert "Rising counts serve .kv sites alone" in found[name]
