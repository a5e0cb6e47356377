"""Dialogues: a second turn continues the pruned cache, with or without a new image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import vtprune
from tests.robustness.scenes import DROP, EVICT, INPUT_DROP, STAGES, recipe, reference_of, tokens
from vtprune.core.errors import NoVisionTokensError
from vtprune.testing.models import Inputs, Tiny, tiny_llava
from vtprune.testing.reference import MaskedReference, greedy_steps

FULL_DROP = {**DROP, "budget": 0.25}
TURNS = {**STAGES, "everywhere": [{**EVICT, "site": "llm.layers[0:].kv"}], "twice": [INPUT_DROP, FULL_DROP]}
STEPS = 8


def joined(first: Inputs, reply: Tensor, second: Inputs) -> Inputs:
    """Both turns as one prompt, the reply between them."""
    ids = torch.cat([first["input_ids"], reply, second["input_ids"]], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def merged(one: MaskedReference, other: MaskedReference, start: int, total: int) -> tuple[dict[int, Tensor], ...]:
    """Masks of two turns as masks of the whole prompt; the second turn begins at ``start``."""
    maps = []
    for name in ("hide", "hide_kv"):
        whole: dict[int, Tensor] = {}
        for masks, offset in ((getattr(one, name), 0), (getattr(other, name), start)):
            for layer, mask in masks.items():
                row = whole.setdefault(layer, torch.ones(*mask.shape[:-1], total, dtype=torch.bool))
                row[..., offset : offset + mask.shape[-1]] &= mask
        maps.append(whole)
    return tuple(maps)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("stages", ["input", "drop", "twice"])
def test_a_second_turn_with_a_new_image(stages: str, attention: Any) -> None:
    tiny = tiny_llava(attention)
    model, first, second = tiny.model, tiny.make_inputs((1,)), tiny.make_inputs((2,), seed=5)
    cache = DynamicCache()
    with vtprune.prune(model, recipe(*TURNS[stages])) as run:
        reply = tokens(model, first, past_key_values=cache)
        both = joined(first, reply, second)
        pruned = greedy_steps(model, {**both, "pixel_values": second["pixel_values"], "past_key_values": cache}, STEPS)
    one, two = (reference_of(model, report, turn) for report, turn in zip(run.reports, (first, second), strict=True))
    start = first["input_ids"].shape[1] + reply.shape[1]
    whole = {**both, "pixel_values": torch.cat([first["pixel_values"], second["pixel_values"]])}
    with MaskedReference(model, *merged(one, two, start, both["input_ids"].shape[1])):
        expected = greedy_steps(model, whole, STEPS)
    assert torch.equal(pruned.tokens, expected.tokens)
    torch.testing.assert_close(pruned.logits, expected.logits, rtol=0, atol=1e-5)
    assert run.reports[1].layouts[0].vision == 32


@pytest.mark.parametrize("stages", TURNS)
def test_a_second_turn_of_text(tiny_any: Tiny, stages: str) -> None:
    """Qwen2.5-VL continues with the rope delta it noted; nothing of the first turn is encoded again."""
    model, first = tiny_any.model, tiny_any.make_inputs((1,))
    question = torch.tensor([[5, 6, 7, 8]])
    cache = DynamicCache()
    with vtprune.prune(model, recipe(*TURNS[stages])) as run:
        reply = tokens(model, first, past_key_values=cache)
        ids = torch.cat([first["input_ids"], reply, question], 1)
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
        pruned = greedy_steps(model, turn, STEPS)
    assert len(run.reports) == 1, "a turn without an image prunes nothing"
    plain = DynamicCache()
    with reference_of(model, run.report, first):
        assert torch.equal(tokens(model, first, past_key_values=plain), reply)
        expected = greedy_steps(model, {**turn, "past_key_values": plain}, STEPS)
    assert torch.equal(pruned.tokens, expected.tokens)
    torch.testing.assert_close(pruned.logits, expected.logits, rtol=0, atol=1e-5)


def test_a_reindexed_dialogue_differs_from_a_retained_one_and_goes_on(tiny: Tiny) -> None:
    model, first = tiny.model, tiny.make_inputs((1,))
    results = []
    for positions in ("retain", "reindex"):
        cache = DynamicCache()
        with vtprune.prune(model, recipe({**FULL_DROP, "positions": positions})):
            reply = tokens(model, first, past_key_values=cache)
            ids = torch.cat([first["input_ids"], reply, torch.tensor([[5, 6]])], 1)
            turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
            results.append(torch.stack(greedy_steps(model, turn, 3).logits))
    assert results[1].isfinite().all()
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_a_first_turn_without_an_image_is_refused(tiny: Tiny) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with (
        vtprune.prune(tiny.model, recipe(DROP)),
        pytest.raises(
            NoVisionTokensError, match=r"no vision token \(placeholder ids \[.*127\]\).*outside vtprune.prune"
        ),
    ):
        tokens(tiny.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_a_text_turn_before_the_image_is_served_by_a_cache_from_outside() -> None:
    """The first turn has no image, so it runs outside; the second brings one and continues the plain cache."""
    tiny = tiny_llava()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    first = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    second, cache = tiny.make_inputs((1,)), DynamicCache()
    reply = tokens(tiny.model, first, past_key_values=cache)
    both = {**joined(first, reply, second), "pixel_values": second["pixel_values"]}
    with vtprune.prune(tiny.model, recipe(*STAGES["drop"])) as run:
        pruned = greedy_steps(tiny.model, {**both, "past_key_values": cache}, STEPS)
    one = reference_of(tiny.model, run.report, both)
    with one:
        expected = greedy_steps(tiny.model, both, STEPS)
    assert torch.equal(pruned.tokens, expected.tokens)
    torch.testing.assert_close(pruned.logits, expected.logits, rtol=0, atol=1e-5)
