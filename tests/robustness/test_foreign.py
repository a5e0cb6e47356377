"""Other people's hooks and patches are honoured and left alone (invariant 7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vtprune
from tests.robustness.scenes import STAGES, logits, recipe, tokens, unchanged
from vtprune.testing.models import Tiny, tiny_llava


@pytest.mark.parametrize("stages", STAGES)
def test_foreign_hooks_fire_inside_and_stay_afterwards(tiny: Tiny, stages: str) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1,))
    decoder = model.get_decoder()
    seen: list[str] = []
    handles = []
    for name, module in {"lm": decoder, "layer": decoder.layers[2], "attention": decoder.layers[2].self_attn}.items():
        handles.append(module.register_forward_hook(lambda *_, name=name: seen.append(f"{name} after")))
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: seen.append(f"{name} before")))
    try:
        logits(model, inputs)
        usual = sorted(seen)
        with unchanged(model), vtprune.prune(model, recipe(*STAGES[stages])):
            seen.clear()
            logits(model, inputs)
            assert sorted(seen) == usual
        seen.clear()
        logits(model, inputs)
        assert sorted(seen) == usual
    finally:
        for handle in handles:
            handle.remove()


def test_a_hook_put_on_inside_the_context_survives_it(tiny: Tiny) -> None:
    layer = tiny.model.get_decoder().layers[1]
    seen: list[int] = []
    with vtprune.prune(tiny.model, recipe(*STAGES["both"])):
        handle = layer.register_forward_hook(lambda *_: seen.append(1))
    try:
        logits(tiny.model, tiny.make_inputs((1,)))
        assert seen == [1]
    finally:
        handle.remove()
    assert not layer._forward_hooks


def test_a_foreign_hook_sees_the_compact_sequence(tiny: Tiny) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1,))
    lengths = []
    layer = model.get_decoder().layers[2]
    handle = layer.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    try:
        with vtprune.prune(model, recipe(*STAGES["drop"])) as run:
            logits(model, inputs)
    finally:
        handle.remove()
    gone = run.report.vision_tokens[0][0] - run.report.vision_tokens[0][2]
    assert gone > 0
    assert lengths == [inputs["input_ids"].shape[1] - gone]


@pytest.mark.parametrize("stages", ["drop", "both"])
def test_a_patched_attention_table_is_called_and_left(tiny: Tiny, stages: str) -> None:
    """Some libraries overwrite the local table of attention functions for the whole process."""
    model, inputs = tiny.model, tiny.make_inputs((1,))
    with vtprune.prune(model, recipe(*STAGES[stages])):
        expected = tokens(model, inputs)
    native = ALL_ATTENTION_FUNCTIONS["sdpa"]
    calls: list[str] = []

    def patched(*args: Any, **kwargs: Any) -> Any:
        calls.append("sdpa")
        return native(*args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = patched
    try:
        tokens(model, inputs)
        usual = len(calls)
        calls.clear()
        with unchanged(model), vtprune.prune(model, recipe(*STAGES[stages])):
            assert torch.equal(tokens(model, inputs), expected)
        assert len(calls) == usual
        assert ALL_ATTENTION_FUNCTIONS._local_mapping["sdpa"] is patched
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert "sdpa" not in ALL_ATTENTION_FUNCTIONS._local_mapping


def test_a_wrapped_generate_is_called_and_put_back(tiny: Tiny) -> None:
    model, inputs = tiny.model, tiny.make_inputs((1,))
    native, calls = model.generate, []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(args))
        return native(*args, **kwargs)

    model.__dict__["generate"] = wrapped
    try:
        with unchanged(model), vtprune.prune(model, recipe(*STAGES["drop"])):
            tokens(model, inputs)
        assert calls == [0]
        assert model.__dict__["generate"] is wrapped
    finally:
        del model.__dict__["generate"]


def test_subclass_attributes_of_the_model_are_untouched(tiny: Tiny) -> None:
    generate = type(tiny.model).generate
    with vtprune.prune(tiny.model, recipe(*STAGES["both"])):
        tokens(tiny.model, tiny.make_inputs((1,)))
        assert type(tiny.model).generate is generate
    assert tiny.model.generate.__func__ is generate


def test_a_generate_replaced_inside_the_context_is_left_alone():
    tiny = tiny_llava()
    model, inputs = tiny.model, tiny.make_inputs()

    def mine(*args, **kwargs):
        return "mine"

    with vtprune.prune(model, "fastv"):
        model.generate = mine
    try:
        assert model.generate(**inputs) == "mine"
    finally:
        del model.__dict__["generate"]
