"""The checks of reducers find what is broken, each its own fault, and pass what is sound."""

from __future__ import annotations

import pytest
import torch

from tests.testing.broken import reducers as broken
from tests.testing.finding import assert_found, faults, names_in
from vtprune.core.component import Reducer
from vtprune.testing.checks import devices, purity, reducers
from vtprune.testing.inputs.merging import merging

NAMES = names_in(reducers, kind="reducer")
EVERY = NAMES | names_in(purity, devices, kind="reducer")


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_check_finds_its_broken_reducer(name: str) -> None:
    also = broken.ALSO.get(name, set())
    assert_found(name, broken.BROKEN[name], EVERY, also, unusable=name in broken.UNUSABLE)


def test_every_check_has_a_broken_reducer() -> None:
    assert set(broken.BROKEN) == NAMES
    assert set(broken.ALSO) | broken.UNUSABLE <= NAMES


@pytest.mark.parametrize("sound", broken.SOUND)
def test_what_the_broken_ones_are_made_from_is_sound(sound: type[Reducer]) -> None:
    assert faults(sound, EVERY) == {}


def test_a_merge_that_leaves_the_tokens_alone_is_sound() -> None:
    class Nothing(Reducer):
        sites = frozenset({"hidden", "kv"})

        def merge(self, features: torch.Tensor, keep: torch.Tensor, sizes: torch.Tensor) -> None:
            return None

    assert faults(Nothing, EVERY - {"sizes_are_conserved"}) == {}


def test_merging_keeps_as_many_as_it_says() -> None:
    given = merging((3, 0, 12), dtype=torch.float16, kind="huge")
    assert given.keep.sum(-1).tolist() == [3, 0, 12]
    assert given.features.dtype == torch.float16
    assert given.features.isfinite().all()
