"""The recipes on a tiny model with random weights."""

from __future__ import annotations

import pytest
import torch
import yaml

import vtprune
from vtprune.testing.models import tiny_llava

RECIPES = ("vtprune-borrowed/value_aware_heads", "vtprune-borrowed/relevant_and_new")


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_keeps_every_parameter(name: str) -> None:
    recipe = vtprune.Recipe.load(name)
    again = vtprune.Recipe.parse(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    assert again.hash == recipe.hash
    changed = vtprune.Recipe.load(name, budget=0.5)
    assert changed.hash != recipe.hash


def test_heads_of_unequal_size_meet_the_budget() -> None:
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1, 2))
    with vtprune.prune(tiny.model, "vtprune-borrowed/value_aware_heads") as run, torch.no_grad():
        tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        report = run.report
    counts = {}
    for event in report.events:
        vision = report.layouts[event.sample].vision
        heads = [len(kept) for kept in event.kept]
        assert sum(heads) == len(heads) * vision // 4
        counts[event.sample, event.layer] = heads
    assert len(counts) == 2 * report.depth
    assert any(len(set(heads)) > 1 for heads in counts.values())


def test_the_rest_is_dropped_before_layer_2() -> None:
    tiny = tiny_llava()
    with vtprune.prune(tiny.model, "vtprune-borrowed/relevant_and_new") as run, torch.no_grad():
        tiny.model.generate(**tiny.make_inputs((1,)), max_new_tokens=2, do_sample=False)
        mixed = run.report.kept(0)
        assert len(mixed) == run.report.layouts[0].vision // 4
    with vtprune.prune(tiny.model, "vtprune-borrowed/relevant_and_new", selector="top_k") as run, torch.no_grad():
        tiny.model.generate(**tiny.make_inputs((1,)), max_new_tokens=2, do_sample=False)
        assert run.report.kept(0) != mixed, "likeness to what is kept should have changed the choice"
