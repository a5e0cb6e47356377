"""Models without a language-model head, as ``AutoModel`` makes them: they compute hidden states and cannot generate."""

from __future__ import annotations

import pytest
import torch

import vtprune
from vtprune.testing.models.families import VARIANTS


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vtprune.UnverifiedWarning")
@pytest.mark.parametrize("recipe", ["fastv", "divprune"])
@pytest.mark.parametrize("variant", ["llava-mistral", "qwen2_5_vl"])
def test_hidden_states_are_those_of_the_whole_model(variant: str, recipe: str) -> None:
    tiny = VARIANTS[variant].make()
    inputs = tiny.make_inputs((1, 2))
    with vtprune.prune(tiny.model, recipe) as run:
        logits, kept = tiny.model(**inputs).logits, run.report.kept()
    base = tiny.model.base_model
    assert not hasattr(base, "generate")
    with vtprune.prune(base, recipe) as run:
        hidden = base(**inputs).last_hidden_state
    assert run.report.kept() == kept
    assert torch.equal(tiny.model.get_output_embeddings()(hidden), logits)
    assert not hasattr(base, "generate")
