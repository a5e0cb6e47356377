"""Whether a reducer merges is told by its class alone."""

from __future__ import annotations

import pytest
from torch import Tensor

from vtprune.core.component import Merged, Reducer
from vtprune.core.recipe import Stage
from vtprune.reducers.drop import Drop
from vtprune.reducers.merge import Merge


class Keeps(Reducer):
    """Defines nothing."""

    sites = frozenset({"hidden"})


class Tries(Reducer):
    """Defines ``merge``, which may still decline."""

    sites = frozenset({"hidden", "kv"})

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged | None:
        return None


class Inherits(Tries):
    """Takes ``merge`` from its parent."""


def test_defining_merge_is_what_counts() -> None:
    assert [made.merges for made in (Drop(), Keeps(), Merge(), Tries(), Inherits())] == [False, False, True, True, True]


def test_it_is_no_parameter() -> None:
    assert "merges" not in Tries.model_fields
    assert "merges" not in Tries().model_dump()


def test_a_stage_at_a_cache_refuses_it() -> None:
    given = {"site": "llm.layers[1].kv", "scorer": "random", "budget": 0.5, "reducer": Inherits()}
    with pytest.raises(ValueError, match=r"merges, but at a \.kv site nothing is merged"):
        Stage.model_validate(given)
