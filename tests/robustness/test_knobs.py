"""Every parameter of every shipped recipe changes something that a run records: no dead knobs (invariant 9)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

import vtprune
from tests.robustness.scenes import FAMILIES
from vtprune import Recipe
from vtprune.core.errors import RecipeError
from vtprune.core.plugins import registry
from vtprune.testing.reference import greedy_steps

Overrides = dict[str, Any]
PROSE = ("schema_version", "name", "paper", "description")
LOGITS_ONLY = ("positions", "reducer.name", "replace")  # they change numbers, not which tokens are kept


def table(layer: int) -> Overrides:
    return {"allocator": {"name": "schedule", "shape": "table", "table": {layer: 0.3}}, "budget": None}


COMMON: dict[str, Overrides] = {
    "positions": {"positions": "reindex"},
    "scope": {"scope": "image"},
    "protect": {"protect": [13, 14]},
    "budget.keep_ratio": {"budget": 0.8},
    "selector.name": {"selector": {"name": "greedy_suppression", "threshold": 0.3}},
    "reducer.name": {"reducer": "merge"},
    "replace": {"replace": {"drop": "merge"}},
}
PRE_LLM = {**COMMON, "site": {"site": "llm.layers[1]"}, "allocator.name": table(0)}
AT_LAYER_2 = {**COMMON, "site": {"site": "llm.layers[1]"}, "allocator.name": table(2)}
ATTENTION: dict[str, Overrides] = {
    "scorer.name": {"scorer": "key_norm"},
    "scorer.layer": {"scorer.layer": 0},
    "scorer.query": {"scorer.query": "received"},
}
SUPPRESSION: dict[str, Overrides] = {
    "selector.feature": {"selector.feature": "keys"},
    "selector.threshold": {"selector.threshold": 0.2},
    "selector.on_exhaustion": {"selector.on_exhaustion": "stop"},
    "selector.relax_step": {"selector.relax_step": 1.5},
}
CHANGES: dict[str, dict[str, Overrides]] = {
    "fastv": {
        **AT_LAYER_2,
        **ATTENTION,
        "scorer.head_reduction": {"scorer.head_reduction": "max"},
        "scorer.heads": {"scorer.heads": [1]},
        "scorer.gqa_reduction": {"scorer.gqa_reduction": "max"},
    },
    "plphp": {
        **COMMON,
        **ATTENTION,
        "site": {"site": "llm.layers[1:].kv"},
        "replace": {"replace": {"top_k": "threshold"}, "selector.value": 0.9},
        "scope": {"scope": "joint"},
        "scorer.layer": {"scorer.layer": 0},
        "scorer.head_reduction": {"scorer.head_reduction": "mean"},
        "scorer.gqa_reduction": {"scorer.gqa_reduction": "max"},
        "scorer.heads": {"scorer.heads": [1]},
        "allocator.name": {"allocator": "uniform"},
        "allocator.query": {"allocator.query": "text"},
        "allocator.delta": {"allocator.delta": 0.1},
        "allocator.alpha": {"allocator.alpha": 0.9},
        "allocator.beta": {"allocator.beta": 0.5},
        "allocator.rate": {"allocator.rate": 0.6, "budget": None},
        "allocator.rounding": {"allocator.rounding": "half_up"},
    },
    "divprune": {
        **PRE_LLM,
        "selector.name": {"selector": "facility_location", "scorer": "random"},
        "selector.feature": {"selector.feature": "keys"},
        "selector.metric": {"selector.metric": "euclidean"},
        "selector.start": {"selector.start": "farthest_from_mean"},
    },
    "greedyprune": {
        **AT_LAYER_2,
        **SUPPRESSION,
        "scorer.name": {"scorer": "key_norm"},
        "scorer.to": {"scorer.to": "mean"},
        "scorer.text": {"scorer.text": "text"},
        "selector.name": {"selector": "max_min", "scorer": None},
    },
    "random": {**PRE_LLM, "scorer.name": {"scorer": "uniform_grid"}, "scorer.seed": {"scorer.seed": 1}},
    "uniform_grid": {**PRE_LLM, "scope": {"scope": "joint"}, "scorer.name": {"scorer": "random"}},
}
BASES: dict[tuple[str, str], Overrides] = {  # what both sides of a comparison set
    ("greedyprune", "selector.feature"): {"selector.threshold": 0.2},
    ("greedyprune", "selector.on_exhaustion"): {"selector.threshold": -0.5},
    ("greedyprune", "selector.relax_step"): {"selector.threshold": -0.5, "selector.on_exhaustion": "relax"},
    ("plphp", "scorer.layer"): {"site": "llm.layers[1:].kv"},
    ("plphp", "allocator.beta"): {"allocator.alpha": 0.9},
    ("divprune", "selector.feature"): {"site": "llm.layers[1]"},
    ("uniform_grid", "scope"): {"budget": 0.45},
}
REFUSED = {
    ("fastv", "scorer.gqa_reduction"): "gqa_reduction: max acts only with head_reduction: none",
    ("plphp", "scorer.heads"): "heads chooses query heads to reduce, but head_reduction is none",
    ("plphp", "positions"): "positions: reindex is not possible at a .kv site",
    ("plphp", "reducer.name"): "reducer 'merge' cannot serve",
}


def leaves(data: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the parameters of a stage."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key


def parameters() -> list[tuple[str, str]]:
    found = []
    for name in registry().names("recipe"):
        data = Recipe.load(name).to_dict()
        assert set(data) - {"stages", "replace"} <= set(PROSE)
        (stage,) = data["stages"]
        found.append((name, "replace"))
        found += [(name, path) for path in leaves(stage) if not (path == "scorer" and stage["scorer"] is None)]
    return found


@cache
def record(name: str, overrides: tuple[tuple[str, Any], ...] = ()) -> tuple[list[Any], torch.Tensor]:
    """What a run of each family records, and its logits."""
    records, numbers = [], []
    recipe = Recipe.load(name, **dict(overrides))
    for build in FAMILIES.values():
        tiny = build()
        with vtprune.prune(tiny.model, recipe) as run:
            result = greedy_steps(tiny.model, tiny.make_inputs((3, 3), seed=3), 2)
        numbers.append(torch.stack(result.logits))
        report = run.report
        records.append([event.to_dict() for event in report.events] + [report.vision_tokens, report.kv_tokens])
    return records, torch.stack(numbers)


class Pairs(tuple[tuple[str, Any], ...]):
    """Overrides as a key of a cache."""

    def __hash__(self) -> int:
        return hash(repr(self))


@pytest.mark.parametrize(("name", "path"), parameters())
def test_every_parameter_changes_something_recorded(name: str, path: str) -> None:
    change = CHANGES[name][path]
    if (name, path) in REFUSED:
        with pytest.raises(RecipeError) as raised:
            Recipe.load(name, **change)
        assert REFUSED[name, path] in str(raised.value)
        return
    base = BASES.get((name, path), {})
    before, after = record(name, Pairs(base.items())), record(name, Pairs({**base, **change}.items()))
    assert before[0] != after[0] or (path in LOGITS_ONLY and not torch.equal(before[1], after[1]))


def test_the_same_recipe_records_the_same() -> None:
    for name in registry().names("recipe"):
        assert record(name)[0] == record.__wrapped__(name)[0]
