"""Gradients flow through a pruned model, with and without gradient checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.robustness.scenes import DROP, INPUT_DROP, recipe, reference_of, unchanged, warm
from vtprune.testing.models import Inputs, Tiny, tiny_llava, tiny_qwen2_5_vl, vision_mask

FRESH = {"llava": tiny_llava.__wrapped__, "qwen2_5_vl": tiny_qwen2_5_vl.__wrapped__}
MERGE = {**DROP, "reducer": "merge"}
RECIPES = {
    "input": [INPUT_DROP],
    "drop": [DROP],
    "twice": [DROP, {**DROP, "site": "llm.layers[3]", "budget": 0.25}],
    "merge": [MERGE, {**MERGE, "site": "llm.layers[3]", "budget": 0.25}],
    "reindex": [{**DROP, "positions": "reindex"}],
}
EXACT = ["input", "drop", "twice"]


@pytest.fixture(params=FRESH, scope="module")
def trained(request: pytest.FixtureRequest) -> Tiny:
    """A model of its own whose parameters want gradients."""
    tiny = warm(FRESH[request.param]())
    tiny.model.requires_grad_(True)
    return tiny


def labels_of(inputs: Inputs) -> Tensor:
    """Text is learned, except what follows a vision token: that is read off a token which may be gone."""
    ids, vision = inputs["input_ids"], vision_mask(inputs)
    ignored = vision | ~inputs["attention_mask"].bool()
    ignored[:, 1:] |= vision[:, :-1]
    ignored[:, 1:] |= ~inputs["attention_mask"].bool()[:, :-1]
    return ids.masked_fill(ignored, -100)


def loss_and_gradients(model: Any, *prompts: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    losses = [model(**inputs, labels=labels_of(inputs), use_cache=False).loss for inputs in prompts]
    sum(losses).backward()
    return losses[0].detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], atol: float) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=atol)
    for name in one[1].keys() | other[1].keys():
        left, right = (each[1].get(name) for each in (one, other))
        if left is None or right is None:
            left = right = left if left is not None else right
            assert left is not None
            assert not left.any(), name
            continue
        torch.testing.assert_close(left, right, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("stages", EXACT)
def test_gradients_equal_those_of_the_masked_reference(trained: Tiny, stages: str) -> None:
    inputs = trained.make_inputs((1, 2))
    with vtprune.prune(trained.model, recipe(*RECIPES[stages])) as run:
        pruned = loss_and_gradients(trained.model, inputs)
    full = loss_and_gradients(trained.model, inputs)
    with reference_of(trained.model, run.report, inputs):
        expected = loss_and_gradients(trained.model, inputs)
    assert_same(pruned, expected, atol=1e-5)
    assert (full[0] - pruned[0]).abs() > 1e-3
    tower = [name for name in pruned[1] if "embed_tokens" not in name and ("vision_tower" in name or "visual" in name)]
    assert any(pruned[1][name].abs().max() > 1e-4 for name in tower)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("stages", RECIPES)
def test_gradient_checkpointing_changes_no_gradient(trained: Tiny, stages: str, reentrant: bool) -> None:
    inputs, model = trained.make_inputs((1, 2)), trained.model
    with vtprune.prune(model, recipe(*RECIPES[stages])) as run:
        expected = loss_and_gradients(model, inputs)
        calls = Counter(model.get_decoder().layers[2].mlp)
        with Checkpointing(model, reentrant), calls:
            seen = loss_and_gradients(model, inputs)
    assert calls.seen == 2, "the layer was not computed again, so the test shows nothing"
    assert_same(seen, expected, atol=1e-6)
    assert run.reports[0].kept() == run.reports[1].kept()


@pytest.mark.parametrize("reentrant", [False, True])
def test_one_backward_through_two_checkpointed_forwards(trained: Tiny, reentrant: bool) -> None:
    """The second forward prunes elsewhere; computing the first one again must still prune as the first one did."""
    prompts, model = [trained.make_inputs((1, 2)), trained.make_inputs((1, 2), seed=0)], trained.model
    prompts[1]["pixel_values"] = prompts[1]["pixel_values"].flip(-1) * 1.5
    with vtprune.prune(model, recipe(*RECIPES["twice"])) as run:
        expected = loss_and_gradients(model, *prompts)
        with Checkpointing(model, reentrant):
            seen = loss_and_gradients(model, *prompts)
    assert run.reports[0].kept() != run.reports[1].kept()
    assert_same(seen, expected, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_plain_checkpointed_forward_after_the_context(trained: Tiny, reentrant: bool) -> None:
    inputs, model = trained.make_inputs((1,)), trained.model
    expected = loss_and_gradients(model, inputs)
    with Checkpointing(model, reentrant), unchanged(model), vtprune.prune(model, recipe(DROP)):
        loss_and_gradients(model, inputs)
    with Checkpointing(model, reentrant):
        assert_same(loss_and_gradients(model, inputs), expected, atol=1e-6)


def test_gradients_are_the_only_thing_a_backward_changes(trained: Tiny) -> None:
    trained.model.zero_grad(set_to_none=True)
    with unchanged(trained.model), vtprune.prune(trained.model, recipe(DROP)):
        loss_and_gradients(trained.model, trained.make_inputs((1,)))


class Counter:
    """How often a module runs."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.seen = module, 0

    def __enter__(self) -> None:
        self.handle = self.module.register_forward_pre_hook(lambda *_: setattr(self, "seen", self.seen + 1))

    def __exit__(self, *exception: object) -> None:
        self.handle.remove()


class Checkpointing:
    """Gradient checkpointing and training mode for a while."""

    def __init__(self, model: Any, reentrant: bool) -> None:
        self.model, self.reentrant = model, reentrant

    def __enter__(self) -> None:
        self.model.train()
        self.model.gradient_checkpointing_enable({"use_reentrant": self.reentrant})

    def __exit__(self, *exception: object) -> None:
        self.model.gradient_checkpointing_disable()
        self.model.eval()
