"""Models that do not run every decoder layer: refused before the forward, or at the latest when it ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtprune
from vtprune.core.errors import BindingError, UnsupportedModeError
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl

RANDOM = {"site": "llm.layers[1]", "scorer": "random", "budget": 0.25}
TOO_FEW = "has 4 decoder layers, but num_hidden_layers is 3 in its config, so only the first 3 would run"
LATE = {"stages": [RANDOM, {**RANDOM, "site": "llm.layers[3]"}]}


@pytest.fixture(params=[tiny_llava, tiny_qwen2_5_vl], ids=["llava", "qwen"])
def tiny(request: Any) -> Tiny:
    made = request.param()
    return replace(made, model=copy.deepcopy(made.model))


def test_a_config_with_fewer_layers_than_the_model_is_refused_before_it_runs(tiny: Tiny) -> None:
    tiny.model.get_decoder().config.num_hidden_layers = 3
    with pytest.raises(BindingError, match=TOO_FEW):
        vtprune.prune(tiny.model, LATE).__enter__()


@pytest.mark.parametrize("call", [lambda m, i: m(**i), lambda m, i: m.generate(**i, max_new_tokens=2)])
def test_a_config_changed_later_is_refused_by_the_next_prompt(tiny: Tiny, call: Callable[..., Any]) -> None:
    inputs = tiny.make_inputs((1,))
    with vtprune.prune(tiny.model, LATE), torch.no_grad():
        tiny.model.get_decoder().config.num_hidden_layers = 3
        with pytest.raises(UnsupportedModeError, match=TOO_FEW):
            call(tiny.model, inputs)
        tiny.model.get_decoder().config.num_hidden_layers = 4
        tiny.model(**inputs)


class Skip(nn.Module):
    """What somebody puts in the place of a decoder layer to skip it."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


@pytest.mark.parametrize(
    ("layer", "lost"), [(0, ""), (2, r"would be false\. "), (3, r"; stages\[1\] .* did not act there\. ")]
)
def test_a_layer_taken_out_is_named_when_the_forward_ends(layer: int, lost: str) -> None:
    made = tiny_llava()
    model = copy.deepcopy(made.model)
    layers = model.get_decoder().layers
    with vtprune.prune(model, LATE), torch.no_grad():
        model(**made.make_inputs((1,)))
        layers[layer] = Skip()
        with pytest.raises(UnsupportedModeError, match=rf"ran 3 of the 4 decoder layers \(not layer {layer}\).*{lost}"):
            model(**made.make_inputs((1,)))
