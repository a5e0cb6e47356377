"""`positions: reindex` equals the same layers run by hand on shortened inputs at consecutive positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.exactness.helpers import (
    POWER,
    Stages,
    assert_agree,
    distance,
    family,
    generate,
    inputs_of,
    masks_of,
    matrix,
    run,
)
from tests.exactness.manual import State, choosing, decode_by_hand, only_row, prompt_states
from vtprune.core.report import Report
from vtprune.testing.models import Inputs

STEPS = 10
RECIPES: dict[str, Stages] = {
    "projector": [{"site": "projector.output", "scorer": "random", "budget": 0.3, "positions": "reindex"}],
    "layer": [{"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3, "positions": "reindex"}],
    "projector_then_layer": [
        {"site": "projector.output", "scorer": "random", "budget": 0.6, "positions": "reindex"},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3, "positions": "reindex"},
    ],
    "layer_after_retaining": [
        {"site": "projector.output", "scorer": "random", "budget": 0.6},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3, "positions": "reindex"},
    ],
    "retaining_after_reindexing": [
        {"site": "projector.output", "scorer": "random", "budget": 0.6, "positions": "reindex"},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3},
    ],
}


def betweens(report: Report, inputs: Inputs, sample: int) -> Callable[[int, State], State]:
    """What the recipe says shall happen between the layers, from the report's kept indices."""
    width = inputs["input_ids"].shape[1]
    real = inputs["attention_mask"][sample].bool()
    before = torch.ones(int(real.sum()), dtype=torch.bool)
    actions = []
    for index, stage in enumerate(report.recipe.stages):
        layer = stage.site.layers(report.depth)[0]
        one = Report(**{**vars(report), "events": [e for e in report.events if e.stage == index]})
        now: Tensor = masks_of(one, width)[0][layer][sample, real]
        kept = now[before].nonzero().squeeze(-1)
        actions.append(choosing(layer, int(before.sum()), kept, reindex=stage.positions == "reindex"))
        before = now

    def between(layer: int, state: State) -> State:
        for action in actions:
            state = action(layer, state)
        return state

    return between


@pytest.mark.parametrize(
    ("name", "batch", "recipe"),
    matrix(
        ("llava-sdpa", "llava-eager", "qwen-sdpa", "qwen-eager"),
        ("single", "two_images", "padded"),
        RECIPES,
        slow=lambda name, batch, recipe: "eager" in name and batch != "padded",
    ),
)
def test_reindexing_equals_a_shorter_run(name: str, batch: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    generated, report = run(name, inputs, RECIPES[recipe], STEPS)
    for sample, prompt in enumerate(prompt_states(model, inputs)):
        expected = decode_by_hand(model, prompt, STEPS, betweens(report, inputs, sample))
        assert_agree(only_row(generated, sample), expected)

    retained = [{**stage, "positions": "retain"} for stage in RECIPES[recipe]]
    others, _ = run(name, inputs, retained, STEPS)
    assert distance(generated.logits[:, 0], others.logits[:, 0]) > POWER, "reindexing shows"


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
def test_the_manual_run_is_the_model(name: str) -> None:
    model, inputs = family(name).model, inputs_of(name, "padded")
    generated = generate(model, inputs, STEPS)
    for sample, prompt in enumerate(prompt_states(model, inputs)):
        assert_agree(only_row(generated, sample), decode_by_hand(model, prompt, STEPS, lambda layer, state: state))
