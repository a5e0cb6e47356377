"""Wrappers around a model, and models without weights: refused, with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import vtprune
from tests.robustness.scenes import DROP, logits, recipe, unchanged, warm
from vtprune.core.errors import UnsupportedModeError, UnsupportedModelError
from vtprune.testing.models import Tiny, tiny_llava


class PeftModel(nn.Module):
    """What matters of PEFT's class: the changed model is inside, and a method hands it out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.base_model = inner

    def get_base_model(self) -> nn.Module:
        return self.base_model


@pytest.mark.parametrize(
    ("wrap", "parts"),
    [
        (nn.DataParallel, ["DataParallel is a LlavaFor", "replicas", "vtprune.prune(model.module, ...)"]),
        (PeftModel, ["PeftModel is a LlavaFor", "PEFT", "vtprune.prune(model.get_base_model(), ...)"]),
    ],
)
def test_a_wrapper_names_what_to_pass_instead(wrap: Any, parts: list[str]) -> None:
    model = tiny_llava().model
    with pytest.raises(UnsupportedModelError) as raised:
        vtprune.prune(wrap(model), recipe(DROP))
    assert all(part in str(raised.value) for part in parts), raised.value


def test_what_the_message_about_peft_proposes_works() -> None:
    """Layers changed in the inner model take part; the wrapper may be called as ever, since it calls that model."""
    tiny = tiny_llava.__wrapped__()
    inputs, before = tiny.make_inputs((1,)), logits(tiny.model, tiny.make_inputs((1,)))
    with vtprune.prune(tiny.model, recipe(DROP)):
        unchanged_layers = logits(tiny.model, inputs)
    with torch.no_grad():
        tiny.model.get_decoder().layers[0].mlp.down_proj.weight *= 1.5
    wrapper = PeftModel(tiny.model)
    with vtprune.prune(wrapper.get_base_model(), recipe(DROP)) as run:
        seen = logits(wrapper.base_model, inputs)
    assert len(run.reports) == 1
    assert (seen - unchanged_layers).abs().max() > 1e-3
    assert (seen - before).abs().max() > 1e-3


def test_a_model_without_weights_binds_but_does_not_run(tiny: Tiny) -> None:
    """Plans of studies are made with such models."""
    with torch.device("meta"):
        empty = type(tiny.model)(tiny.model.config)
    run = vtprune.prune(empty, recipe(DROP))
    with (
        unchanged(empty),
        pytest.raises(UnsupportedModeError, match=r"on the meta device, and no hook of accelerate.*without weights"),
    ):
        run.__enter__()
    warm(tiny)
