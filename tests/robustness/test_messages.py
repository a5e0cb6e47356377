"""Errors say what was seen and expected, the likely cause and the nearest valid name; all problems come at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import vtprune
from tests.robustness.scenes import DROP, EVICT, INPUT_DROP, logits, recipe
from vtprune import Recipe
from vtprune.core.errors import BindingError, BudgetError, RecipeError, UnknownNameError, VtpruneError
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl

CLS = {"site": "vision.output", "scorer": "cls_attention", "budget": 0.5}


def problems(error: type[Any], of: Callable[[], Any]) -> tuple[str, ...]:
    with pytest.raises(error) as raised:
        of()
    assert isinstance(raised.value, VtpruneError)
    assert all(problem in str(raised.value) for problem in raised.value.problems)
    return raised.value.problems


def bound(build: Callable[[], Tiny], *stages: dict[str, Any]) -> tuple[str, ...]:
    return problems(BindingError, lambda: vtprune.prune(build().model, recipe(*stages)))


# -- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("plphb", ["unknown recipe 'plphb'", "Did you mean 'plphp'?", "fastv", "A path to a YAML file works too"]),
        ("qqqq", ["unknown recipe 'qqqq'", "Known: divprune"]),
    ],
)
def test_an_unknown_recipe(name: str, parts: list[str]) -> None:
    with pytest.raises(UnknownNameError) as raised:
        vtprune.prune(tiny_llava().model, name)
    assert all(part in str(raised.value) for part in parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"scorer": "atention"}, ["stages[0].scorer", "unknown scorer 'atention'", "Did you mean 'attention'"]),
        ({"selector": "topk"}, ["unknown selector 'topk'", "Did you mean 'top_k'"]),
        ({"allocator": "unifrom"}, ["unknown allocator 'unifrom'", "Did you mean 'uniform'"]),
        ({"reducer": "dorp"}, ["unknown reducer 'dorp'", "Did you mean 'drop'"]),
        (
            {"scorer": {"name": "attention", "qery": "last"}},
            ["unknown parameter 'qery' of scorer 'attention'", "Did you mean 'query'", "head_reduction"],
        ),
        (
            {"scorer": {"name": "attention", "query": "first"}},
            ["scorer 'attention'.query", "'text_after_vision'", "'first'"],
        ),
        ({"budget": {"keep_ratoi": 0.5}}, ["unknown budget unit 'keep_ratoi'", "Did you mean 'keep_ratio'"]),
        ({"budget": 1.5}, ["budget 1.5 is above 1 and not an integer", "keep_ratio"]),
        ({"budget": -1}, ["must be a finite number of at least 0"]),
        ({"budget": None}, ["allocator 'uniform'", "needs a budget, e.g. `budget: 0.25`"]),
        ({"site": "llm.layer[2]"}, ["unknown site 'llm.layer[2]'", "llm.layers[I].kv"]),
        ({"site": "llm.layers[two]"}, ["bad layer index 'two'", "8,16,24"]),
        ({"scope": "images"}, ["stages[0].scope", "'joint' or 'image'", "'images'"]),
        ({"bugdet": 0.5}, ["unknown field 'bugdet'", "Did you mean 'budget'"]),
        ({"scorer": None}, ["selector 'top_k' ranks by score, so the stage needs a scorer"]),
        ({"selector": "max_min"}, ["selector 'max_min' ignores scores", "remove it"]),
        ({"scorer": EVICT["scorer"]}, ["gives a score per head", "head_reduction: mean", "use a .kv site"]),
        ({"reducer": "evict_kv"}, ["reducer 'evict_kv' cannot serve llm.layers[1]", "use drop, merge"]),
    ],
)
def test_a_recipe_that_is_wrong(change: dict[str, Any], parts: list[str]) -> None:
    found = problems(RecipeError, lambda: Recipe.load(recipe({**DROP, **change})))
    assert any(all(part in problem for part in parts) for problem in found), found


def test_every_problem_of_a_recipe_at_once() -> None:
    wrong = recipe({**DROP, "scorer": "atention", "bugdet": 1}, {**EVICT, "positions": "reindex"}, {"site": "nowhere"})
    found = problems(RecipeError, lambda: Recipe.load({**wrong, "titel": "x"}))
    for part in ("atention", "bugdet", "stages[1]: positions: reindex", "nowhere", "titel"):
        assert any(part in problem for problem in found), part
    with pytest.raises(RecipeError, match=rf"\({len(found)} problems\)"):
        Recipe.load({**wrong, "titel": "x"})


# -- binding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        (
            {**DROP, "site": "llm.layers[0]"},
            ["attention(query=last)", "no layer has run before layer 0", "llm.layers[0].kv"],
        ),
        (
            {**INPUT_DROP, "scorer": "attention"},
            ["scorer 'attention' needs attention", "projector.output lies before the language model", "llm.layers[i]"],
        ),
        ({**INPUT_DROP, "scorer": "key_norm"}, ["needs keys", "lies before the language model"]),
        ({**DROP, "site": "llm.layers[9]"}, ["layer 9 is out of range", "layers 0 to 3"]),
        ({**DROP, "site": "llm.layers[2:9]"}, ["9 is out of range", "layers 0 to 3"]),
        ({**DROP, "site": "llm.layers[3:2]"}, ["names no layer", "layers 0 to 3"]),
        ({**DROP, "scorer": {"name": "attention", "layer": 7}}, ["layer 7 is out of range", "layers 0 to 3"]),
        (
            {**DROP, "scorer": {"name": "attention", "layer": 2}},
            ["layer 2 has not run when llm.layers[1] is reached; the latest is 0"],
        ),
        (
            {**EVICT, "site": "llm.layers[0:].kv", "scorer": {"name": "attention", "layer": 3}},
            ["layer 3 has not run", "the latest is 0"],
        ),
        (
            {"site": "vision.output", "scorer": "similarity", "budget": 0.5},
            [
                "scorer 'similarity' needs text(query=last)",
                "do not live in the space of vision.output",
                "projector.output",
            ],
        ),
        (
            {**CLS, "scorer": {"name": "cls_attention", "query": "received", "layers": [5]}},
            ["vision layer 5 is out of range", "layers 0 to 2 (or -3 to -1)"],
        ),
        (
            {**DROP, "selector": {"name": "max_min", "feature": "keys"}, "scorer": None, "site": "llm.layers[0]"},
            ["selector 'max_min' needs keys", "no layer has run before layer 0"],
        ),
    ],
)
@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
def test_a_recipe_that_does_not_fit(build: Callable[[], Tiny], stage: dict[str, Any], parts: list[str]) -> None:
    (problem,) = bound(build, stage)
    assert problem.startswith("stages[0]: ")
    assert all(part in problem for part in parts), problem


def test_a_tower_without_a_cls_token() -> None:
    vtprune.prune(tiny_llava().model, recipe(CLS))
    (problem,) = bound(tiny_qwen2_5_vl, CLS)
    for part in ("scorer 'cls_attention'", "Qwen2_5_VLForConditionalGeneration has no CLS token", "query: received"):
        assert part in problem


def test_a_cache_that_is_pruned_twice() -> None:
    (problem,) = bound(tiny_llava, EVICT, {**EVICT, "site": "llm.layers[0,3].kv"})
    assert "stages[1]: the cache of layer 3 is already pruned by stages[0]" in problem


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        (
            [{**DROP, "site": "llm.layers[2]"}, DROP],
            ["stages[1] (llm.layers[1])", "stages[0] (llm.layers[2])", "in the order"],
        ),
        ([{**DROP, "site": "llm.layers[1,3]"}, {**DROP, "site": "llm.layers[2]"}], ["starts before", "has ended"]),
        ([DROP, INPUT_DROP], ["stages[1] (projector.output) starts before"]),
        ([INPUT_DROP, {**INPUT_DROP, "site": "vision.output"}], ["vision.output comes before projector.output"]),
    ],
)
def test_stages_out_of_order(stages: list[dict[str, Any]], parts: list[str]) -> None:
    (problem,) = bound(tiny_llava, *stages)
    assert all(part in problem for part in parts), problem


def test_every_problem_of_a_binding_at_once() -> None:
    found = bound(
        tiny_qwen2_5_vl,
        CLS,
        {**INPUT_DROP, "scorer": {"name": "product", "scorers": ["key_norm", "attention"]}},
        {**DROP, "site": "llm.layers[8]"},
        EVICT,
        EVICT,
    )
    for part in ("no CLS token", "needs keys", "needs attention", "layer 8", "already pruned"):
        assert sum(part in problem for problem in found) == 1, part
    with pytest.raises(BindingError, match=r"recipe 'scene' cannot be bound to Qwen2_5_VL\w+ \(5 problems\)"):
        vtprune.prune(
            tiny_qwen2_5_vl().model,
            recipe(
                CLS,
                {**INPUT_DROP, "scorer": {"name": "product", "scorers": ["key_norm", "attention"]}},
                {**DROP, "site": "llm.layers[8]"},
                EVICT,
                EVICT,
            ),
        )


def test_what_an_adapter_does_not_provide(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtprune.adapters.llava import ADAPTER

    monkeypatch.setitem(ADAPTER.__dict__, "provides", frozenset({"features", "text"}))
    (problem,) = bound(tiny_llava, DROP)
    assert "adapter 'llava' does not provide it; it provides features, text" in problem


# -- budgets, known only when the prompt is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        (
            {**DROP, "budget": 500},
            ["stages[0] (llm.layers[1]), sample 0", "asks for more vision tokens than the sample has"],
        ),
        (
            {**DROP, "site": "llm.layers[3]", "budget": {"mean_tokens_over_layers": 1}},
            ["the 3 of 4 layers that this stage does not govern hold", "can lie between"],
        ),
        (
            {**DROP, "site": "llm.layers[3]", "budget": {"flops_ratio": 0.2}},
            ["with no vision token after layer 3", "still costs"],
        ),
        ({**EVICT, "budget": {"kv_bytes_ratio": 0.01}}, ["out of reach", "can lie between"]),
        ({**EVICT, "budget": {"flops_ratio": 0.5}}, ["cannot be met at a .kv site", "use kv_bytes_ratio"]),
    ],
)
def test_a_budget_out_of_reach(tiny: Tiny, stage: dict[str, Any], parts: list[str]) -> None:
    with vtprune.prune(tiny.model, recipe(stage)), pytest.raises(BudgetError) as raised:
        logits(tiny.model, tiny.make_inputs((1, 2)))
    assert all(part in str(raised.value) for part in parts), raised.value


def test_a_report_before_the_first_prompt(tiny: Tiny) -> None:
    with (
        vtprune.prune(tiny.model, recipe(DROP)) as run,
        pytest.raises(VtpruneError, match="no prompt has been pruned yet"),
    ):
        run.report
