"""Binding: which layers act, what they read, and what has to be captured."""

from __future__ import annotations

from typing import Any

import pytest

from tests.robustness.scenes import DROP, EVICT, INPUT_DROP, recipe
from vtprune import Recipe
from vtprune.core.engine.plan import Plan, bind, component_needs
from vtprune.core.errors import BindingError
from vtprune.core.signals import Need
from vtprune.testing.models import tiny_llava, tiny_qwen2_5_vl

LAST = Need("attention", "last")


def plan(*stages: dict[str, Any]) -> Plan:
    return bind(Recipe.parse(recipe(*stages)), tiny_llava().model)


@pytest.mark.parametrize(
    ("site", "layers", "sources"),
    [
        ("llm.layers[2]", (2,), {2: 1}),
        ("llm.layers[-1]", (3,), {3: 2}),
        ("llm.layers[1:]", (1, 2, 3), {1: 0, 2: 1, 3: 2}),
        ("llm.layers[3,1]", (1, 3), {1: 0, 3: 2}),
        ("llm.layers[0:4:2].kv", (0, 2), {0: 0, 2: 2}),
    ],
)
def test_layers_and_what_they_read(site: str, layers: tuple[int, ...], sources: dict[int, int]) -> None:
    stage = EVICT if site.endswith(".kv") else DROP
    (bound,) = plan({**stage, "site": site}).stages
    assert bound.layers == layers
    assert bound.source == sources
    assert bound.is_kv is site.endswith(".kv")
    assert [bound.resolved(LAST, layer).layer for layer in layers] == [sources[layer] for layer in layers]


def test_an_absolute_layer_stays_what_it_is() -> None:
    (bound,) = plan({**DROP, "site": "llm.layers[3]", "scorer": {"name": "attention", "layer": 0}}).stages
    need = Need("attention", "last", 0)
    assert bound.resolved(need, 3) is need


def test_captures_cover_every_need_at_its_layer_and_nothing_else() -> None:
    result = plan({**DROP, "site": "llm.layers[1,3]"}, {**EVICT, "site": "llm.layers[2].kv", "selector": "top_k"})
    assert {layer: {(need.kind, need.query) for need in needs} for layer, needs in result.captures.items()} == {
        0: {("attention", "last")},
        2: {("attention", "last")},
    }
    assert plan(INPUT_DROP).captures == {}
    keys = plan({**DROP, "site": "llm.layers[2]", "scorer": "key_norm"}).captures
    assert {layer: [str(need) for need in needs] for layer, needs in keys.items()} == {1: ["keys(layer=1)"]}


def test_the_tower_is_watched_only_where_somebody_reads_it() -> None:
    reading = {"site": "vision.output", "scorer": {"name": "cls_attention", "layers": [-2]}, "budget": 0.5}
    result = plan(reading)
    assert result.vision_needs == {Need("vision_attention", "cls", -2)}
    assert result.vision_features
    assert not plan(INPUT_DROP).vision_features
    assert not plan(INPUT_DROP).vision_needs
    late = plan({**DROP, "scorer": reading["scorer"]})
    assert late.vision_needs
    assert not late.vision_features


def test_stages_act_in_recipe_order() -> None:
    result = plan({**DROP, "budget": 0.8}, {**DROP, "budget": 0.4}, EVICT)
    assert [bound.index for bound in result.at(1, is_kv=False)] == [0, 1]
    assert [bound.index for bound in result.at(1, is_kv=True)] == [2]
    assert list(result.at(0, is_kv=True)) == []


def test_two_cache_stages_may_share_no_layer() -> None:
    halves = [{**EVICT, "site": "llm.layers[:2].kv"}, {**EVICT, "site": "llm.layers[2:].kv"}]
    assert [bound.layers for bound in plan(*halves).stages] == [(0, 1), (2, 3)]
    with pytest.raises(BindingError, match=r"stages\[1\]: the cache of layer 1 is already pruned by stages\[0\]"):
        plan(halves[0], {**EVICT, "site": "llm.layers[1:].kv"})


def test_needs_are_known_by_their_owner() -> None:
    stage = Recipe.parse(
        recipe(
            {
                "site": "llm.layers[0:].kv",
                "scorer": {"name": "weighted_sum", "scorers": ["key_norm", "attention"], "weights": [1.0, 2.0]},
                "allocator": "reattention",
                "selector": {"name": "greedy_suppression", "feature": "values"},
                "budget": 0.5,
            }
        )
    ).stages[0]
    owners = component_needs(stage)
    assert owners["scorer 'weighted_sum'"] == {Need("keys"), LAST}
    assert owners["allocator 'reattention'"] == {LAST}
    assert owners["selector 'greedy_suppression'"] == {Need("values")}
    assert owners["reducer 'evict_kv'"] == frozenset()


def test_parts_are_found_in_both_families() -> None:
    for build in (tiny_llava, tiny_qwen2_5_vl):
        parts = bind(Recipe.parse(recipe(DROP)), build().model).parts
        assert (parts.depth, len(parts.attention), len(parts.vision_attention)) == (4, 4, 3)
        assert parts.head is build().model.lm_head
