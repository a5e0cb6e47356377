"""Mllama: the vision tokens never enter the sequence, and binding says so."""

from __future__ import annotations

import pytest

import vtprune
from vtprune.core.errors import UnsupportedModelError
from vtprune.core.lookup import find_adapter
from vtprune.testing.models.mllama import tiny_mllama


def test_the_tiny_model_runs_and_its_prompt_holds_one_placeholder_per_image() -> None:
    tiny = tiny_mllama()
    inputs = tiny.make_inputs((1, 2), seed=3)
    assert tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 3
    assert (inputs["input_ids"] == tiny.model.config.image_token_id).sum(1).tolist() == [1, 2]


@pytest.mark.parametrize("recipe", ["plphp", "greedyprune", "fastv", "divprune"])
def test_pruning_is_refused_with_the_reason(recipe: str) -> None:
    with pytest.raises(UnsupportedModelError, match="never enter the language model's sequence") as caught:
        vtprune.prune(tiny_mllama().model, recipe)
    assert "MllamaForConditionalGeneration cannot be pruned" in str(caught.value)
    assert "Use a model that puts its vision tokens into the prompt" in str(caught.value)


def test_observing_is_refused_as_well() -> None:
    with pytest.raises(UnsupportedModelError, match="cross-attention layers read them"):
        vtprune.observe(tiny_mllama().model)


def test_looking_the_family_up_by_its_architecture_says_it_too() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be pruned"):
        find_adapter(["MllamaForConditionalGeneration"])
