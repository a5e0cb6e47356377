"""Drafts that assisted generation appends to the prompt do not change what is pruned, nor what comes out."""

from __future__ import annotations

import pytest
import torch

import vtprune
from tests.robustness.scenes import DROP, EVICT, INPUT_DROP, recipe, tokens, unchanged, warm
from vtprune.core.errors import UnsupportedModeError
from vtprune.testing.models import Inputs, Tiny, tiny_llava
from vtprune.testing.models.families import variant

STEPS = 24
RECIPES = {
    "input": [INPUT_DROP],
    "last": [DROP],
    "text": [{**DROP, "scorer": {"name": "attention", "query": "text_after_vision"}}],
    "received": [{**DROP, "scorer": {"name": "attention", "query": "received"}}],
    "similarity": [{**DROP, "scorer": "similarity"}],
    "reindexed": [{**DROP, "positions": "reindex"}],
    "evict": [EVICT],
    "both": [DROP, {**EVICT, "budget": 0.25}],
    "costed": [{**DROP, "budget": {"flops_ratio": 0.7}}, {**EVICT, "budget": {"kv_bytes_ratio": 0.7}}],
}


def repeating(tiny: Tiny) -> Inputs:
    """A prompt whose end repeats earlier text, so that prompt lookup finds drafts."""
    inputs = tiny.make_inputs((1,), text=(6, 6))
    echo = torch.tensor([[9, 10, 11, 12, 13, 9, 10, 11]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], echo], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(echo)], 1)
    return inputs


@pytest.mark.parametrize("stages", RECIPES)
def test_prompt_lookup_equals_plain_greedy(tiny: Tiny, stages: str) -> None:
    inputs, queries = repeating(tiny), []
    handle = tiny.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: queries.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        with unchanged(tiny.model), vtprune.prune(tiny.model, recipe(*RECIPES[stages])) as run:
            plain = tokens(tiny.model, inputs, STEPS)
            queries.clear()
            assisted = tokens(tiny.model, inputs, STEPS, prompt_lookup_num_tokens=4)
    finally:
        handle.remove()
    assert torch.equal(plain, assisted)
    assert queries[0] > inputs["input_ids"].shape[1], "no draft came with the prompt, so the test shows nothing"
    first, second = run.reports
    assert [event.to_dict() for event in first.events] == [event.to_dict() for event in second.events]
    assert (first.kv_tokens, first.text_tokens) == (second.kv_tokens, second.text_tokens)


@pytest.mark.parametrize("stages", ["input", "last", "both"])
def test_an_assistant_model_equals_plain_greedy(stages: str) -> None:
    tiny, assistant = warm(tiny_llava()), tiny_llava(layers=3).model
    inputs = repeating(tiny)
    with unchanged(tiny.model), vtprune.prune(tiny.model, recipe(*RECIPES[stages])) as run:
        plain = tokens(tiny.model, inputs, STEPS)
        assisted = tokens(tiny.model, inputs, STEPS, assistant_model=assistant)
    assert torch.equal(plain, assisted)
    assert run.reports[0].kept() == run.reports[1].kept()


@pytest.mark.parametrize("window", [4096, 40, 12])
def test_prompt_lookup_with_a_sliding_window(window: int) -> None:
    tiny = tiny_llava(text="mistral", sliding_window=window)
    inputs = repeating(tiny)
    for stages in ("input", "last", "both"):
        with vtprune.prune(tiny.model, recipe(*RECIPES[stages])):
            plain = tokens(tiny.model, inputs, STEPS)
            assert torch.equal(plain, tokens(tiny.model, inputs, STEPS, prompt_lookup_num_tokens=4))


def test_drafts_are_refused_where_a_flash_kernel_would_evict(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = warm(tiny_llava())
    with unchanged(tiny.model), vtprune.prune(tiny.model, recipe(EVICT)) as run:
        monkeypatch.setattr(run._engine.inputs, "flash", True)
        with pytest.raises(
            UnsupportedModeError, match=r"appended \d+ draft tokens.*'sdpa', or generate without drafts"
        ):
            tokens(tiny.model, repeating(tiny), STEPS, prompt_lookup_num_tokens=4)


def test_a_model_that_asks_for_its_kernel_by_name_gets_the_native_one() -> None:
    """Gemma4 leaves out what later layers need not compute, unless its implementation is "sdpa" and drafts came in."""
    tiny = variant("gemma4-shared").make()
    inputs = tiny.make_inputs((1,), text=(6, 6))
    echo = torch.tensor([[9, 10, 11, 12, 13, 9, 10, 11]])
    same = {"input_ids": echo, "attention_mask": torch.ones_like(echo)}
    inputs = {
        name: torch.cat([tensor, same.get(name, torch.zeros_like(echo)).to(tensor.dtype)], 1)
        if tensor.shape == inputs["input_ids"].shape
        else tensor
        for name, tensor in inputs.items()
    }
    plain = tokens(tiny.model, inputs, STEPS, prompt_lookup_num_tokens=4)
    reads = {"stages": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 1.0}]}
    with unchanged(tiny.model), vtprune.prune(tiny.model, reads):
        assert torch.equal(plain, tokens(tiny.model, inputs, STEPS, prompt_lookup_num_tokens=4))
