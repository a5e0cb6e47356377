"""The checks of every kind find what is broken, each its own fault, and pass what is sound."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.testing.broken import common as broken
from tests.testing.finding import faults, names_in
from vtprune.core.component import Component
from vtprune.core.plugins import registry
from vtprune.core.registry import Registration
from vtprune.testing import check_component
from vtprune.testing.checks import behaviour, common, parameters

FAST = names_in(common, parameters, behaviour)
REGISTERED = {"name_leads_to_the_class", "recipe_round_trip"}
"""Checks that concern what is registered; their broken components are registered for the time of a test."""


@pytest.fixture
def register() -> Iterator[object]:
    """Registers a class under a name until the test is over."""
    known = registry()
    before = dict(known._entries), dict(known._loaded)

    def add(target: type[Component], kind: str, name: str, summary: str = "for a test") -> None:
        known._entries[kind, name] = Registration(
            kind, name, f"{target.__module__}:{target.__qualname__}", summary, None, "vtprune", "0"
        )

    yield add
    known._entries, known._loaded = before


@pytest.mark.parametrize(
    ("name", "component"),
    [(name, component) for name, found in broken.BROKEN.items() for component in found],
)
def test_a_check_finds_its_broken_component(name: str, component: type[Component]) -> None:
    found = faults(component, [name])
    assert name in found
    assert not found[name].startswith("raised"), found[name]


@pytest.mark.parametrize("component", broken.BROKEN["global_settings_are_left_alone"])
def test_a_setting_that_an_earlier_check_saw_changed_is_found_changed_again(component: type[Component]) -> None:
    before = dict(os.environ), torch.get_float32_matmul_precision()
    assert "global_settings_are_left_alone" in faults(component, FAST)
    assert (dict(os.environ), torch.get_float32_matmul_precision()) == before


def test_every_check_has_a_broken_component() -> None:
    assert set(broken.BROKEN) | REGISTERED == FAST | {"recipe_round_trip"}


def test_what_the_broken_ones_are_made_from_is_sound() -> None:
    assert faults(broken.Sound, FAST) == {}


@pytest.mark.parametrize("component", sorted({c for found in broken.BROKEN.values() for c in found}, key=str))
def test_a_broken_component_never_crashes_the_suite(component: type[Component]) -> None:
    outcomes = check_component(component, only=FAST, raises=False)
    assert {outcome.check.name for outcome in outcomes} <= FAST
    assert len(outcomes) >= len(FAST)


def test_a_registration_of_the_wrong_kind_is_found(register) -> None:
    register(broken.Sound, "selector", "sound")
    found = faults(broken.Sound, REGISTERED)
    assert "is registered as selector 'sound', but is a scorer" in found["name_leads_to_the_class"]


def test_a_registration_without_a_summary_is_found(register) -> None:
    register(broken.Sound, "scorer", "sound", summary=" ")
    assert "expected one line" in faults(broken.Sound, REGISTERED)["name_leads_to_the_class"]


def test_a_registered_name_that_loads_another_class_is_found(register) -> None:
    register(broken.Sound, "scorer", "sound")
    registry()._loaded["scorer", "sound"] = broken.Dead
    assert "loads another class" in faults(broken.Sound, REGISTERED)["name_leads_to_the_class"]


def test_a_recipe_that_loses_parameters_is_found(register) -> None:
    register(broken.Sound, "scorer", "sound")
    register(broken.Holder, "scorer", "holder")
    found = faults(broken.Holder, REGISTERED | {"round_trip_keeps_parameters"})
    assert set(found) == {"recipe_round_trip", "round_trip_keeps_parameters"}


def test_a_registered_component_passes_what_concerns_names(register) -> None:
    register(broken.Sound, "scorer", "sound")
    outcomes = check_component(broken.Sound, only=FAST | REGISTERED, raises=False)
    assert {outcome.status for outcome in outcomes} <= {"passed", "not applicable"}
    assert {outcome.status for outcome in outcomes if outcome.check.name in REGISTERED} == {"passed"}


def test_an_unregistered_component_has_no_recipe_to_be_written() -> None:
    (outcome,) = check_component(broken.Sound, only=["recipe_round_trip"])
    assert outcome.status == "not applicable"
    assert outcome.detail == "Sound is not registered, so no recipe can name it"


class Coupled(broken.Sound):
    """One parameter acts only together with another.

    power: of the length. mode: plain, or shifted by ``shift``. shift: acts only with ``mode: shifted``.
    """

    mode: str = "plain"
    shift: float = 0.0

    @classmethod
    def examples(cls) -> tuple[Coupled, ...]:
        return cls(), cls(mode="shifted", shift=1.0)

    def score(self, signals):
        scores = super().score(signals)
        return scores + self.shift if self.mode == "shifted" else scores


def test_a_parameter_that_acts_with_another_is_seen_to_act() -> None:
    assert faults(Coupled, ["every_parameter_matters"]) == {}


def test_checks_of_parameters_run_once_for_a_class() -> None:
    first, second = check_component(Coupled, only=["every_parameter_matters"])
    assert (first.status, second.status) == ("passed", "not applicable")
    assert second.detail == "checked once for the class, with Coupled()"
    (given,) = check_component(Coupled(power=3.5), only=["every_parameter_matters"])
    assert given.status == "passed"
