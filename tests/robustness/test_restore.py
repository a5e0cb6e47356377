"""Leaving the context restores the model fully (invariant 7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import vtprune
from tests.robustness.scenes import (
    DROP,
    STAGES,
    Failing,
    changes,
    logits,
    recipe,
    snapshot,
    tokens,
    unchanged,
    warm,
)
from vtprune.core.engine.hooks import Engine
from vtprune.core.errors import VtpruneError
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl

VISION = {
    "site": "vision.output",
    "scorer": {"name": "cls_attention", "query": "received", "layers": [0]},
    "budget": 0.5,
}
RECIPES = {**STAGES, "vision": [VISION]}


@pytest.mark.parametrize("stages", RECIPES)
def test_leaving_restores_everything(tiny_any: Tiny, stages: str) -> None:
    model, inputs = tiny_any.model, tiny_any.make_inputs((1, 2))
    plain, before = logits(model, inputs), snapshot(model)
    with vtprune.prune(model, recipe(*RECIPES[stages])):
        assert changes(before, snapshot(model)), "the test sees no hook, so it could not see one left behind"
        tokens(model, inputs)
    assert changes(before, snapshot(model)) == []
    assert torch.equal(plain, logits(model, inputs))


def test_binding_alone_touches_nothing(tiny: Tiny) -> None:
    with unchanged(tiny.model):
        vtprune.prune(tiny.model, recipe(*STAGES["both"]))


def test_a_component_that_raises_leaves_nothing_behind(tiny_any: Tiny) -> None:
    model, inputs = tiny_any.model, tiny_any.make_inputs((1,))
    plain = logits(model, inputs)
    stages = recipe({**DROP, "site": "llm.layers[1]"}, {"site": "llm.layers[2]", "scorer": Failing(), "budget": 0.5})
    with unchanged(model), pytest.raises(RuntimeError, match="the scorer gave up"), vtprune.prune(model, stages):
        tokens(model, inputs)
    assert torch.equal(plain, logits(model, inputs))


@pytest.mark.parametrize("where", ["vision", "layer", "head"])
def test_an_error_inside_the_model_leaves_nothing_behind(tiny: Tiny, where: str) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1, 2))
    layers = model.get_decoder().layers
    run = vtprune.prune(model, recipe(*STAGES["both"]))
    target = {"vision": run._engine.parts.vision_tower, "layer": layers[2].mlp, "head": model.lm_head}[where]
    pruned = vtprune.prune(model, recipe(*STAGES["both"]))
    with pruned:
        expected = tokens(model, inputs)

    def explode(*ignored: Any) -> None:
        raise RuntimeError("a foreign fault")

    with unchanged(model), run:
        handle = target.register_forward_hook(explode)
        with pytest.raises(RuntimeError, match="a foreign fault"):
            tokens(model, inputs)
        handle.remove()
        assert torch.equal(tokens(model, inputs), expected), "the same context must go on working"


def test_an_attach_that_fails_half_way_leaves_nothing_behind(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vtprune.prune(tiny.model, recipe(*STAGES["both"]))
    target = tiny.model.get_decoder().layers[2]

    def refuse(*ignored: Any, **options: Any) -> None:
        raise RuntimeError("no more hooks")

    with unchanged(tiny.model):
        with monkeypatch.context() as patch:
            patch.setattr(type(target), "register_forward_pre_hook", refuse)
            with pytest.raises(RuntimeError, match="no more hooks"):
                run.__enter__()
        with run:
            tokens(tiny.model, tiny.make_inputs((1,)))


def test_a_nested_attach_that_fails_leaves_the_outer_run_acting(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1,))
    outer, inner = (vtprune.prune(model, recipe(*STAGES[name])) for name in ("drop", "evict"))
    real, calls = Engine.attach, []

    def attach(engine: Engine) -> None:
        calls.append(engine)
        if engine is inner._engine:
            raise RuntimeError("no")
        real(engine)

    with unchanged(model), outer:
        monkeypatch.setattr(Engine, "attach", attach)
        with pytest.raises(RuntimeError, match="no"), inner:
            pass
        tokens(model, inputs)
        assert len(outer.reports) == 1
        assert calls == [inner._engine, outer._engine]


def test_the_innermost_run_acts_then_the_outer_one_again(tiny: Tiny) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1, 2))
    one, other = recipe(*STAGES["drop"]), recipe(*STAGES["input"])
    alone = []
    for stages in (one, other):
        with vtprune.prune(model, stages):
            alone.append(logits(model, inputs))
    assert not torch.equal(*alone)
    with unchanged(model), vtprune.prune(model, one) as outer:
        first = logits(model, inputs)
        with vtprune.prune(model, other) as inner:
            second = logits(model, inputs)
        third = logits(model, inputs)
    assert torch.equal(first, alone[0])
    assert torch.equal(second, alone[1])
    assert torch.equal(third, alone[0])
    assert (len(outer.reports), len(inner.reports)) == (2, 1)


@pytest.mark.parametrize("stages", ["drop", "both"])
def test_runs_left_out_of_order(tiny: Tiny, stages: str) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1,))
    with vtprune.prune(model, recipe(*STAGES["input"])):
        alone = logits(model, inputs)
    with unchanged(model):
        outer, inner = vtprune.prune(model, recipe(*STAGES[stages])), vtprune.prune(model, recipe(*STAGES["input"]))
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        assert torch.equal(logits(model, inputs), alone)
        inner.__exit__(None, None, None)


def test_a_run_can_be_entered_again_but_not_twice_at_once(tiny: Tiny) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1,))
    run = vtprune.prune(model, recipe(*STAGES["both"]))
    seen = []
    with unchanged(model):
        for _ in range(2):
            with run:
                seen.append(tokens(model, inputs))
        with run, pytest.raises(VtpruneError, match="already active; make a second one"):
            run.__enter__()
    assert torch.equal(*seen)
    assert len(run.reports) == 2


def test_two_models_at_once() -> None:
    one, other = warm(tiny_llava()), warm(tiny_qwen2_5_vl())
    alone = {}
    for tiny in (one, other):
        with vtprune.prune(tiny.model, recipe(*STAGES["both"])):
            alone[tiny.name] = tokens(tiny.model, tiny.make_inputs((1,)))
    first, second = (vtprune.prune(tiny.model, recipe(*STAGES["both"])) for tiny in (one, other))
    with unchanged(one.model, other.model):
        first.__enter__()
        second.__enter__()
        assert torch.equal(tokens(one.model, one.make_inputs((1,))), alone[one.name])
        first.__exit__(None, None, None)
        assert torch.equal(tokens(other.model, other.make_inputs((1,))), alone[other.name])
        second.__exit__(None, None, None)


def test_a_run_that_is_over_does_not_keep_the_model_alive() -> None:
    import gc
    import weakref

    tiny = tiny_llava.__wrapped__()
    watched: weakref.ref[nn.Module] = weakref.ref(tiny.model)
    with vtprune.prune(tiny.model, recipe(*STAGES["both"])) as run:
        tokens(tiny.model, tiny.make_inputs((1,)))
    del tiny, run
    gc.collect()
    assert watched() is None
