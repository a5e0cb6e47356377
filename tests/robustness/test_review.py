"""Uses off the beaten path: prompts that end in an image, crops, copies, training through a merge, what stays alive."""

from __future__ import annotations

import copy
import gc
import weakref
from types import MappingProxyType

import pytest
import torch
from transformers import DynamicCache

import vtprune
from vtprune.core.errors import BudgetError, UnsupportedModeError
from vtprune.testing.models import IMAGE, tiny_llava, tiny_qwen2_5_vl

RANDOM = {"site": "llm.layers[1]", "scorer": "random", "budget": 0.25}


def ending_in_an_image():
    inputs = tiny_llava().make_inputs()
    ids = torch.tensor([[3, 4, 5, *[IMAGE] * 16]])
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("scorer", ["random", {"name": "negate", "scorer": "uniform_grid"}, "attention"])
def test_the_last_token_of_a_prompt_that_ends_in_an_image_is_kept(scorer):
    model, inputs = tiny_llava().model, ending_in_an_image()
    stages = [{**RANDOM, "scorer": scorer}, {**RANDOM, "site": "llm.layers[3]", "scorer": "attention", "budget": 2}]
    with vtprune.prune(model, {"stages": stages}) as run, torch.no_grad():
        logits = model(**inputs).logits
    assert run.report.kept(0)[-1] == run.report.kept(1)[-1] == 15
    assert (len(run.report.kept(0)), len(run.report.kept(1))) == (4, 2)
    assert logits[0, -1].abs().max() > 0.1
    with vtprune.prune(model, {"stages": [{**RANDOM, "budget": 0.0}]}), pytest.raises(BudgetError, match="protected"):
        model(**inputs)


def test_a_merge_before_the_projector_trains_the_tower():
    model = copy.deepcopy(tiny_llava().model).requires_grad_(True)
    stage = {"site": "vision.output", "scorer": "random", "reducer": "merge", "budget": 0.5}
    with vtprune.prune(model, {"stages": [stage]}):
        model(**tiny_llava().make_inputs()).logits[:, -1].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.model.vision_tower.parameters())


def test_a_merge_under_gradient_checkpointing_gives_the_plain_gradients():
    stages = [
        {"site": "vision.output", "scorer": "random", "reducer": "merge", "budget": 0.75},
        {"site": "llm.layers[2]", "scorer": "key_norm", "reducer": "merge", "budget": 0.25},
    ]
    gradients = []
    for checkpointing in (False, True):
        model = copy.deepcopy(tiny_llava().model).requires_grad_(True).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with vtprune.prune(model, {"stages": stages}) as run:
            for _ in range(3):
                model.zero_grad()
                model(**tiny_llava().make_inputs(), use_cache=False).logits[:, -1].square().sum().backward()
            gc.collect()
            assert len(run._engine._replay) <= 1
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, replayed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, replayed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["retain", "reindex"])
def test_a_cache_cropped_to_an_unpruned_prefix_is_as_good_as_new(positions):
    tiny = tiny_llava()
    model, inputs = tiny.model, tiny.make_inputs()
    prefix = torch.tensor([[7, 8, 9, 10]])
    both = torch.cat([torch.ones_like(prefix), inputs["attention_mask"]], 1)
    turn = {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"], "attention_mask": both}
    with torch.no_grad():
        cache = model(input_ids=prefix, past_key_values=DynamicCache(config=model.config.text_config)).past_key_values
        with vtprune.prune(model, {"stages": [{**RANDOM, "positions": positions}]}):
            first = model(**turn, past_key_values=cache).logits
            length = inputs["input_ids"].shape[1]
            cache.crop(-length)
            assert all(layer.untouched and layer.shift is None for layer in cache.layers)
            again = model(**turn, past_key_values=cache).logits
            assert torch.equal(first, again)
            if positions == "reindex":
                with pytest.raises(UnsupportedModeError, match="middle of a re-indexed prompt"):
                    cache.crop(-3)


def test_a_copy_of_a_pruned_cache_is_refused_outside():
    tiny = tiny_llava()
    with torch.no_grad():
        with vtprune.prune(tiny.model, {"stages": [RANDOM]}):
            twin = copy.deepcopy(tiny.model(**tiny.make_inputs(), use_cache=True).past_key_values)
            tiny.model(input_ids=torch.tensor([[5]]), past_key_values=copy.deepcopy(twin))
        with pytest.raises(UnsupportedModeError, match="was pruned by vtprune"):
            tiny.model(input_ids=torch.tensor([[5]]), past_key_values=twin)


def test_a_finished_run_lets_go_of_the_inputs():
    tiny = tiny_qwen2_5_vl()
    inputs = tiny.make_inputs()
    with vtprune.prune(tiny.model, "random") as run, torch.no_grad():
        tiny.model(**inputs)
    watched = [weakref.ref(inputs[name]) for name in ("pixel_values", "input_ids")]
    assert run.report.kept()
    del inputs
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_a_layer_without_weights_is_refused():
    model = copy.deepcopy(tiny_llava().model)
    model.model.language_model.layers[2].to("meta")
    with pytest.raises(vtprune.VtpruneError, match=r"layers\.2\..* is on the meta device"):
        vtprune.prune(model, "fastv").__enter__()


def test_any_mapping_is_a_component():
    recipe = {"stages": [{**RANDOM, "scorer": MappingProxyType({"name": "random", "seed": 3})}]}
    assert vtprune.Recipe.load(recipe).stages[0].scorer.seed == 3
