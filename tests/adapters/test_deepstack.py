"""DeepStack (Qwen3-VL): what is added after the first decoder layers follows the tokens that are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.exactness.helpers import POWER, Stages, distance, masks_of, reference
from tests.robustness.test_gradients import Checkpointing, Counter, assert_same, loss_and_gradients
from vtprune.core.engine.deepstack import repeated
from vtprune.core.engine.deepstack import survivors as cut_down
from vtprune.core.engine.flow import Flow
from vtprune.core.layout import SampleLayout, Segment
from vtprune.testing.models import Inputs, Tiny, vision_mask
from vtprune.testing.models.qwen3_vl import tiny_qwen3_vl

DROP = {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.5}
RECIPES: dict[str, Stages] = {
    "input": [{"site": "projector.output", "scorer": "random", "budget": 0.5}],
    "between": [DROP],
    "twice": [DROP, {**DROP, "site": "llm.layers[2]", "budget": 0.25}],
    "after": [{**DROP, "site": "llm.layers[3]"}],
    "merge": [{**DROP, "reducer": "merge"}, {**DROP, "site": "llm.layers[2]", "budget": 0.25, "reducer": "merge"}],
    "reindex": [{**DROP, "positions": "reindex"}],
}
EXACT = ["input", "between", "twice", "after"]


@pytest.fixture(scope="module")
def trained() -> Tiny:
    """A model of its own whose parameters want gradients."""
    tiny = tiny_qwen3_vl.__wrapped__()
    tiny.model(**tiny.make_inputs((1,)))
    tiny.model.requires_grad_(True)
    return tiny


@contextmanager
def additions(model: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """For each addition the hidden states before and after it."""
    decoder, found = model.model.language_model, []
    original = decoder._deepstack_process

    def noted(hidden: Tensor, *rest: Tensor) -> Tensor:
        found.append((hidden, original(hidden, *rest)))
        return found[-1][1]

    decoder._deepstack_process = noted
    try:
        yield found
    finally:
        del decoder._deepstack_process


def without_additions(inputs: Inputs) -> Any:
    """The same model without DeepStack: its weights, and no features to add."""
    model = tiny_qwen3_vl().model
    decoder = model.model.language_model
    decoder._deepstack_process = lambda hidden, *rest: hidden
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        del decoder._deepstack_process


def test_the_tiny_model_adds_something() -> None:
    tiny = tiny_qwen3_vl()
    inputs = tiny.make_inputs((1, 2))
    with torch.no_grad():
        assert distance(tiny.model(**inputs).logits, without_additions(inputs)) > POWER


@pytest.mark.parametrize("stages", EXACT)
def test_every_survivor_gets_its_own_features(stages: str) -> None:
    """Layer by layer, what was added at each place is what the unpruned model adds to the token that stands there."""
    tiny = tiny_qwen3_vl()
    inputs = tiny.make_inputs((2, 0, 1), videos=(1, 1, 0))
    with additions(tiny.model) as full, torch.no_grad():
        tiny.model(**inputs)
    with (
        additions(tiny.model) as seen,
        vtprune.prune(tiny.model, {"stages": RECIPES[stages]}) as run,
        torch.no_grad(),
    ):
        tiny.model(**inputs)
    hide, _ = masks_of(run.report, inputs["input_ids"].shape[1])
    real, vision = inputs["attention_mask"].bool(), vision_mask(inputs)
    assert len(full) == len(seen) == 3
    for layer, ((before, after), (compact, grown)) in enumerate(zip(full, seen, strict=True)):
        expected = (after - before).masked_fill(~vision[..., None], 0.0)
        assert expected.abs().max() > POWER
        for sample, row in enumerate(real & hide[layer] if layer in hide else real):
            kept = row.nonzero()[:, 0] if layer in hide else torch.arange(len(row))
            made = (grown - compact)[sample, -len(kept) :]
            torch.testing.assert_close(made, expected[sample, kept], rtol=0, atol=1e-5)


def test_merged_tokens_get_their_own_features_only() -> None:
    """At the layers after the merge, additions are those of the kept tokens, as without merging."""
    tiny = tiny_qwen3_vl()
    inputs = tiny.make_inputs((1,))
    made = []
    for reducer in ("merge", "drop"):
        stages = [{"site": "projector.output", "scorer": "random", "budget": 0.5, "reducer": reducer}]
        with additions(tiny.model) as seen, vtprune.prune(tiny.model, {"stages": stages}), torch.no_grad():
            tiny.model(**inputs)
        made.append(seen)
    for (before, after), (plain_before, plain_after) in zip(*made, strict=True):
        torch.testing.assert_close(after - before, plain_after - plain_before, rtol=0, atol=1e-5)
    assert distance(made[0][0][0], made[1][0][0]) > POWER, "merging shows in what they are added to"


@pytest.mark.parametrize("stages", EXACT)
def test_gradients_equal_those_of_the_masked_reference(trained: Tiny, stages: str) -> None:
    inputs = trained.make_inputs((1, 2))
    with vtprune.prune(trained.model, {"stages": RECIPES[stages]}) as run:
        pruned = loss_and_gradients(trained.model, inputs)
    with reference(trained.model, run.report, inputs["input_ids"].shape[1]):
        expected = loss_and_gradients(trained.model, inputs)
    assert_same(pruned, expected, atol=1e-5)
    merger = [name for name in pruned[1] if "deepstack_merger_list" in name]
    assert all(pruned[1][name].abs().max() > 1e-4 for name in merger if "linear" in name and "weight" in name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("stages", RECIPES)
def test_gradient_checkpointing_changes_no_gradient(trained: Tiny, stages: str, reentrant: bool) -> None:
    inputs, model = trained.make_inputs((1, 2)), trained.model
    with vtprune.prune(model, {"stages": RECIPES[stages]}) as run:
        expected = loss_and_gradients(model, inputs)
        calls = Counter(model.get_decoder().layers[2].mlp)
        with Checkpointing(model, reentrant), calls:
            seen = loss_and_gradients(model, inputs)
    assert calls.seen == 2, "the layer was not computed again, so the test shows nothing"
    assert_same(seen, expected, atol=1e-6)
    assert run.reports[0].kept() == run.reports[1].kept()


def test_leaving_the_context_gives_the_method_back() -> None:
    tiny = tiny_qwen3_vl()
    decoder: Any = tiny.model.model.language_model
    with vtprune.prune(tiny.model, {"stages": [DROP]}):
        assert "_deepstack_process" in decoder.__dict__
    assert "_deepstack_process" not in decoder.__dict__


def test_cutting_down_by_hand() -> None:
    """Two samples: the second is shorter by its padding, and keeps fewer tokens."""
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 1, 1, 0]], dtype=torch.bool)
    real = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], dtype=torch.bool)
    layouts = tuple(SampleLayout(row.nonzero()[:, 0], (Segment(0, 0, int(row.sum())),)) for row in mask)
    flow = Flow(2, 5, 0, torch.device("cpu"), mask, real, real)
    flow.start(layouts, [[], []], 2)
    flow.drop([torch.tensor([0, 2]), torch.tensor([1])])
    features = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    where, left = cut_down(flow, mask, features)
    assert where.tolist() == [[False, True, False, True], [False, False, True, False]]
    assert left[:, 0].tolist() == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("per_image", [False, True])
def test_features_of_shared_images_come_back(per_image: bool) -> None:
    one, two = torch.ones(2, 3), torch.full((1, 3), 2.0)
    output: Any = type("Output", (), {})()
    output.deepstack_features = [(one, two) if per_image else torch.cat([one, two])]
    repeated(output, [2, 1], [1, 0, 1])
    (layer,) = output.deepstack_features
    assert torch.equal(torch.cat(layer) if per_image else layer, torch.cat([two, one, two]))
