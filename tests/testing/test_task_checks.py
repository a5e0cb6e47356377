"""The checks of tasks find what is broken, each its own fault, and pass what is sound."""

from __future__ import annotations

import pytest

from tests.testing.broken import tasks as broken
from tests.testing.finding import faults, names_in
from vtprune.core.task import Task
from vtprune.testing.checks import tasks

NAMES = names_in(tasks)


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_check_finds_its_broken_task(name: str) -> None:
    found = faults(broken.BROKEN[name], NAMES)
    assert set(found) == {name, *broken.ALSO.get(name, ())}, found
    assert "likely cause" in found[name] or "expected" in found[name], found[name]


def test_every_check_has_a_broken_task() -> None:
    assert set(broken.BROKEN) == NAMES
    assert set(broken.ALSO) <= NAMES


@pytest.mark.parametrize("sound", broken.SOUND)
def test_what_the_broken_ones_are_made_from_is_sound(sound: type[Task]) -> None:
    assert faults(sound, NAMES) == {}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (broken.Pixels, "has the box (0, 0, 8, 8), expected 0 <= left < right <= 1"),
        (broken.OtherVisual, "lies in visual 1, but there are 1, counted from 0"),
        (broken.OtherFrame, "lies in frame 2 of 2, counted from 0"),
    ],
)
def test_a_region_outside_is_named(task: type[Task], words: str) -> None:
    found = faults(task, NAMES)
    assert set(found) == {"regions_lie_in_the_visuals"}
    assert words in found["regions_lie_in_the_visuals"]


def test_samples_that_are_used_up_are_told_from_others() -> None:
    first, _, second = faults(broken.OneIterator, ["samples_come_again"])["samples_come_again"].partition("\n")
    assert first == "4 samples came first and 0 at the second call"
    assert "one generator is kept" in second
