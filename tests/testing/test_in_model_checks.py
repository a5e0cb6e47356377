"""The checks in a model find what is broken, pass what is sound, and leave the tiny models as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testing.broken import in_model as broken
from tests.testing.finding import faults, names_in
from vtprune.core.component import Component
from vtprune.core.plugins import registry
from vtprune.testing import check_component
from vtprune.testing.checks import in_model, in_model_safety
from vtprune.testing.restoration import HOOKS, changes, contained, process, snapshot
from vtprune.testing.scenes import MODELS, NoScene, PlannedError, failing, fitting, forward, scenes_of

NAMES = names_in(in_model, in_model_safety)
CASES = [(name, component) for name, found in broken.BROKEN.items() for component in found]
ENGINE_SAYS = {"cache_holds_what_was_allocated", "protected_tokens_survive"}
"""Checks whose broken component the engine refuses in words of its own."""


@pytest.fixture(autouse=True)
def _models_as_before() -> Iterator[None]:
    """Some of these components tear at the models, which all tests share."""
    for make in MODELS.values():
        forward(make().model, make().make_inputs((1,)))  # at which transformers puts on hooks of its own, which stay
    modules = [module for make in MODELS.values() for module in make().model.modules()]
    hooks = [(getattr(module, kind), dict(getattr(module, kind))) for module in modules for kind in HOOKS]
    with contained():
        yield
    for table, before in hooks:
        table.clear()
        table.update(before)


@pytest.mark.parametrize(("name", "component"), CASES)
def test_a_check_finds_its_broken_component(name: str, component: type[Component]) -> None:
    found = faults(component, [name])
    assert name in found
    if name in ENGINE_SAYS:
        assert "raised ComponentError: stages[0]: " in found[name]
    elif component in (broken.SecondSample, broken.InFloat):
        assert f"tests/testing/broken/in_model.py:{_line_of(component)}" in found[name].replace("\\", "/")
    else:
        assert "likely cause" in found[name]


def test_every_check_has_a_broken_component() -> None:
    assert set(broken.BROKEN) | {"recipe_round_trip"} == NAMES


def _line_of(component: type[Component]) -> int:
    """The line of a component's method at which it breaks."""
    import inspect

    lines, start = inspect.getsourcelines(component)
    (at,) = [i for i, line in enumerate(lines) if "raise IndexError" in line or "features @" in line]
    return start + at


def test_a_sound_component_passes_and_leaves_everything_as_it_was() -> None:
    models = [make() for make in MODELS.values()]
    before = [snapshot(tiny.model) for tiny in models]
    outcomes = check_component(broken.Sound, only=NAMES, raises=False)
    assert {outcome.check.name: outcome.detail for outcome in outcomes if outcome.status == "failed"} == {}
    assert {o.check.name for o in outcomes if o.status == "not applicable"} == {
        "missing_signals_are_named",
        "recipe_round_trip",
    }
    assert [changes(old, snapshot(tiny.model)) for old, tiny in zip(before, models, strict=True)] == [[], []]


def test_an_unfit_component_fails_one_check_and_the_others_do_not_apply() -> None:
    outcomes = check_component(broken.NeedsEverything, only=NAMES - {"recipe_round_trip"}, raises=False)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [outcome.check.name for outcome in failed] == ["binds_somewhere"]
    assert "it needs attention(query=last, layer=99)" in failed[0].detail
    assert "llava, llm.layers[1]: " in failed[0].detail
    assert "qwen2_5_vl, llm.layers[1:].kv: " in failed[0].detail
    assert {outcome.detail for outcome in outcomes if outcome.status == "not applicable"} == {
        "no site of the tiny models fits it: see the check binds_somewhere"
    }


@pytest.mark.parametrize(
    ("kind", "name", "options", "sites"),
    [
        ("scorer", "attention", {}, {"llm.layers[1]", "llm.layers[1:].kv"}),
        ("scorer", "attention", {"head_reduction": "none"}, {"llm.layers[1:].kv"}),
        ("scorer", "attention", {"layer": 0}, {"llm.layers[1]", "llm.layers[1:].kv"}),
        ("scorer", "cls_attention", {}, {"llm.layers[1]", "llm.layers[1:].kv"}),
        (
            "allocator",
            "schedule",
            {"shape": "table", "table": {1: 0.5, 3: 0.25}},
            {"llm.layers[1,3]", "llm.layers[1,3].kv"},
        ),
        ("selector", "threshold", {"value": 0.2}, {"llm.layers[1]", "llm.layers[1:].kv"}),
        ("reducer", "drop", {}, {"llm.layers[1]"}),
        ("reducer", "evict_kv", {}, {"llm.layers[1:].kv"}),
    ],
)
def test_a_component_is_put_where_it_fits(kind: str, name: str, options: dict, sites: set[str]) -> None:
    component = registry().load(kind, name)(**options)
    found = scenes_of(component)
    assert {scene.stage["site"] for scene in found} == sites
    models = {scene.tiny.name for scene in found}
    assert models == ({"llava-llama-sdpa"} if name == "cls_attention" else {"llava-llama-sdpa", "qwen2_5_vl-sdpa"})
    assert scenes_of(component) is found, "a scene is looked for once"


def test_no_scene_says_why() -> None:
    with pytest.raises(NoScene, match="layer 99 is out of range") as raised:
        scenes_of(broken.NeedsEverything())
    assert set(raised.value.reasons) > {"llava, llm.layers[1]", "qwen2_5_vl, projector.output"}
    assert next(fitting(broken.NeedsEverything()), None) is None


@pytest.mark.parametrize(("kind", "name"), [("scorer", "random"), ("selector", "top_k"), ("allocator", "uniform")])
def test_a_failing_twin_fails_in_the_model(kind: str, name: str) -> None:
    component = registry().load(kind, name)()
    scene = scenes_of(component)[0]
    twin = failing(component)
    assert twin.model_dump() == component.model_dump()
    with pytest.raises(PlannedError), scene.holding(kind, twin).bind() as run:
        forward(run.model, scene.tiny.make_inputs((1,)))


def test_what_is_contained_is_undone() -> None:
    import torch
    from transformers.modeling_utils import AttentionInterface

    before = process()
    with contained():
        AttentionInterface.register("broken", print)
        torch.set_default_dtype(torch.float64)
        torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        assert changes(before, process()) != []
    assert changes(before, process()) == []
    assert torch.get_default_dtype() == torch.float32
