"""Caches after the context: plain again where nothing was pruned, refused where something was (invariant 7)."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

import vtprune
from tests.robustness.scenes import DROP, EVICT, KV_HEADS, LAYERS, STAGES, recipe, tokens
from vtprune.core.engine.cache import PrunedLayer
from vtprune.core.errors import UnsupportedModeError
from vtprune.testing.models import Inputs, Tiny, tiny_llava

KEEP_ALL = {**DROP, "budget": 1.0}


def fresh(tiny: Tiny, with_config: bool) -> DynamicCache:
    return DynamicCache(config=tiny.model.config.get_text_config()) if with_config else DynamicCache()


def text_turn(inputs: Inputs, reply: torch.Tensor) -> Inputs:
    ids = torch.cat([inputs["input_ids"], reply, torch.tensor([[5, 6, 7]])], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("window", [None, 4096, 12])
def test_an_unpruned_cache_is_given_back_as_plain_layers(window: int | None, with_config: bool) -> None:
    tiny = tiny_llava(text="mistral", sliding_window=window) if window else tiny_llava()
    kind = DynamicSlidingWindowLayer if window and with_config else DynamicLayer
    inputs = tiny.make_inputs((1,))
    plain, mine = fresh(tiny, with_config), fresh(tiny, with_config)
    expected = tokens(tiny.model, inputs, past_key_values=plain)
    with vtprune.prune(tiny.model, recipe(KEEP_ALL)):
        assert torch.equal(tokens(tiny.model, inputs, past_key_values=mine), expected)
    assert [type(layer) for layer in mine.layers] == [kind] * LAYERS
    for one, other in zip(plain.layers, mine.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)
        assert one.get_seq_length() == other.get_seq_length()
        assert one.get_mask_sizes(1) == other.get_mask_sizes(1)
    more = text_turn(inputs, expected)
    assert torch.equal(tokens(tiny.model, more, past_key_values=plain), tokens(tiny.model, more, past_key_values=mine))


def test_layers_before_the_first_stage_come_back_plain(tiny: Tiny) -> None:
    cache = DynamicCache()
    with vtprune.prune(tiny.model, recipe({**DROP, "site": "llm.layers[2]"})):
        tokens(tiny.model, tiny.make_inputs((1,)), past_key_values=cache)
    assert [type(layer) for layer in cache.layers] == [DynamicLayer] * 2 + [PrunedLayer] * 2


@pytest.mark.parametrize("stages", STAGES)
def test_a_pruned_cache_refuses_to_go_on_outside(tiny: Tiny, stages: str) -> None:
    inputs, cache = tiny.make_inputs((1,)), DynamicCache()
    with vtprune.prune(tiny.model, recipe(*STAGES[stages])):
        reply = tokens(tiny.model, inputs, past_key_values=cache)
    more = text_turn(inputs, reply)
    with pytest.raises(
        UnsupportedModeError, match="pruned by vtprune and is used outside its context; continue inside"
    ):
        tokens(tiny.model, more, past_key_values=cache)


@pytest.mark.parametrize("stages", STAGES)
def test_a_pruned_cache_goes_on_inside_a_later_context(tiny: Tiny, stages: str) -> None:
    inputs = tiny.make_inputs((1,))
    run = vtprune.prune(tiny.model, recipe(*STAGES[stages]))
    one, two = DynamicCache(), DynamicCache()
    with run:
        reply = tokens(tiny.model, inputs, past_key_values=one)
        more = text_turn(inputs, reply)
        expected = tokens(tiny.model, more, past_key_values=one)
        tokens(tiny.model, inputs, past_key_values=two)
    with run:
        assert torch.equal(tokens(tiny.model, more, past_key_values=two), expected)


def test_the_cache_holds_what_the_report_says(tiny: Tiny) -> None:
    inputs, cache = tiny.make_inputs((1, 2)), DynamicCache()
    with vtprune.prune(tiny.model, recipe(DROP, {**EVICT, "budget": 0.25})) as run:
        tokens(tiny.model, inputs, steps=4, past_key_values=cache)
        lengths = torch.stack([layer.lengths() for layer in cache.layers])
        slots = [layer.keys.shape[-2] for layer in cache.layers]
    text = torch.tensor(run.report.text_tokens)
    held = torch.tensor(run.report.kv_tokens).transpose(0, 1) + text[None, :, None] + 3
    padding = inputs["input_ids"].shape[1] - inputs["attention_mask"].sum(1)
    held[0] += padding[:, None]
    assert torch.equal(lengths, held)
    assert lengths.shape == (LAYERS, 2, KV_HEADS)
    assert slots[-1] < slots[0]


def test_two_caches_at_once() -> None:
    """Two dialogues that take turns do not disturb each other (Qwen2.5-VL itself cannot: it holds one rope delta)."""
    tiny = tiny_llava()
    prompts = [tiny.make_inputs((1,), seed=seed) for seed in (0, 7)]
    run = vtprune.prune(tiny.model, recipe(*STAGES["both"]))
    with run:
        alone = []
        for prompt in prompts:
            cache = DynamicCache()
            reply = tokens(tiny.model, prompt, past_key_values=cache)
            alone.append(tokens(tiny.model, text_turn(prompt, reply), past_key_values=cache))
        caches = [DynamicCache(), DynamicCache()]
        replies = [tokens(tiny.model, p, past_key_values=c) for p, c in zip(prompts, caches, strict=True)]
        mixed = [
            tokens(tiny.model, text_turn(p, r), past_key_values=c)
            for p, r, c in zip(prompts, replies, caches, strict=True)
        ]
    assert all(map(torch.equal, alone, mixed))
