"""DeepSeek-VL on a tiny model with random weights: what the adapter adds, and vtprune's methods on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from removal import hidden, hidden_in_tower
from vtprune_deepseek.tiny import PATCH, SIZE, TOKENS, make

import vtprune
from vtprune.testing.reference import Greedy, greedy_steps

STEPS, TOLERANCE, EFFECT = 8, 1e-5, 0.1
BATCH = (1, 2, 0, 1)
ONLY_WITH_THE_ADAPTER = {
    "the site vision.output": {"site": "vision.output", "selector": "max_min", "budget": 0.5},
    "sites in the tower": {"site": "vision.layers[1]", "selector": "max_min", "budget": 0.5},
    "the grid": {"site": "projector.output", "scorer": "uniform_grid", "budget": 0.25},
    "attention in the tower": {
        "site": "projector.output",
        "scorer": {"name": "cls_attention", "query": "received"},
        "budget": 0.5,
    },
}


def run(recipe: Any, images: tuple[int, ...] = BATCH) -> tuple[Greedy, Any]:
    tiny = make()
    with vtprune.prune(tiny.model, recipe) as pruning:
        found = greedy_steps(tiny.model, tiny.make_inputs(images), STEPS)
        return found, pruning.report


def test_it_is_this_adapter() -> None:
    _, report = run("divprune", (1,))
    assert report.family == "vtprune-deepseek/deepseek_vl"


@pytest.mark.parametrize("recipe", ["divprune", "fastv", "plphp", "greedyprune"])
def test_removing_is_masking(recipe: str) -> None:
    """A padded batch with several images: prefill and every decoding step, against the unmodified model."""
    tiny = make()
    inputs = tiny.make_inputs(BATCH)
    found, report = run(recipe)
    plain = greedy_steps(tiny.model, inputs, STEPS)
    with hidden(tiny.model, report, inputs["input_ids"].shape[1]):
        expected = greedy_steps(tiny.model, inputs, STEPS)
    assert torch.equal(found.tokens, expected.tokens)
    for one, other in zip(found.logits, expected.logits, strict=True):
        assert float((one - other).abs().max()) < TOLERANCE
    changed = max(float((one - other).abs().max()) for one, other in zip(found.logits, plain.logits, strict=True))
    assert changed > EFFECT, "the reference would not notice a missing prune"


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_removing_in_the_tower_is_masking(layer: int) -> None:
    """Another number of patches in each image."""
    selector = {"name": "threshold", "value": 1.0, "relative": "mean"}
    tiny = make()
    inputs = tiny.make_inputs(BATCH)
    found, report = run({"stages": [{"site": f"vision.layers[{layer}]", "scorer": "random", "selector": selector}]})
    assert len({len(report.kept(0, sample)) for sample in (0, 1, 3)}) > 1
    with hidden_in_tower(tiny.model, report), hidden(tiny.model, report, inputs["input_ids"].shape[1]):
        expected = greedy_steps(tiny.model, inputs, STEPS)
    with hidden(tiny.model, report, inputs["input_ids"].shape[1]):
        behind_alone = greedy_steps(tiny.model, inputs, STEPS)
    assert torch.equal(found.tokens, expected.tokens)
    assert max(float((a - b).abs().max()) for a, b in zip(found.logits, expected.logits, strict=True)) < TOLERANCE
    assert float((behind_alone.prefill - expected.prefill).abs().max()) > EFFECT, (
        "hiding in the tower made no difference"
    )


@pytest.mark.parametrize("stage", ONLY_WITH_THE_ADAPTER.values(), ids=list(ONLY_WITH_THE_ADAPTER))
def test_what_the_adapter_adds(stage: dict[str, Any]) -> None:
    _, report = run({"stages": [stage]})
    for event in report.events:
        vision = report.layouts[event.sample].vision
        assert all(len(kept) == stage["budget"] * vision for kept in event.kept)


def test_tokens_stand_in_rows_and_columns() -> None:
    side = SIZE // PATCH
    assert side * side == TOKENS
    _, report = run("divprune", (2,))
    assert [(segment.start, segment.stop, segment.grid) for segment in report.layouts[0].segments] == [
        (0, TOKENS, (1, side, side)),
        (TOKENS, 2 * TOKENS, (1, side, side)),
    ]
    _, report = run({"stages": [{"site": "projector.output", "scorer": "uniform_grid", "budget": 0.25}]}, (1,))
    rows = {divmod(token, side)[0] for token in report.kept(0)}
    columns = {divmod(token, side)[1] for token in report.kept(0)}
    assert len(rows) == len(columns) == side // 2


def test_attention_of_the_tower_arrives_on_its_own_tokens() -> None:
    """Compared with the attention that transformers returns of its eager kernel."""
    tiny = make("eager")
    inputs = tiny.make_inputs((1, 1))
    model: Any = tiny.model.model
    with torch.no_grad():
        seen = model.vision_model(inputs["pixel_values"], output_attentions=True).attentions[1]
    received = seen.mean((1, 2))  # [image, patch]
    stage = {
        "site": "projector.output",
        "scorer": {"name": "cls_attention", "layers": [1], "query": "received"},
        "budget": {"keep_tokens": 5},
    }
    with vtprune.prune(tiny.model, {"stages": [stage]}) as pruning, torch.no_grad():
        tiny.model(**inputs)
    for sample in range(2):
        assert set(pruning.report.kept(0, sample)) == set(received[sample].topk(5).indices.tolist())


def test_a_picture_that_comes_twice_is_encoded_once() -> None:
    tiny = make()
    inputs = tiny.make_inputs((1, 1, 1))
    inputs["pixel_values"][2] = inputs["pixel_values"][0]
    layer = tiny.model.model.vision_model.encoder.layers[0]
    entered: list[int] = []
    handle = layer.register_forward_pre_hook(lambda _, args, kwargs: entered.append(len(args[0])), with_kwargs=True)
    logits = []
    try:
        for share in (False, True):
            with vtprune.prune(tiny.model, "divprune", share_images=share), torch.no_grad():
                logits.append(tiny.model(**inputs).logits)
    finally:
        handle.remove()
    assert entered == [3, 2]
    assert float((logits[0] - logits[1]).abs().max()) < TOLERANCE


@pytest.mark.parametrize("site", ["vision.output", "projector.output", "llm.layers[1]"])
def test_soft_merging_keeps_the_same_tokens_and_changes_what_they_say(site: str) -> None:
    stage = {"site": site, "selector": "max_min", "budget": 0.25}
    dropped, before = run({"stages": [stage]}, (1, 2))
    merged, after = run({"stages": [{**stage, "reducer": "vtprune-deepseek/soft_merge"}]}, (1, 2))
    assert [before.kept(0, sample) for sample in range(2)] == [after.kept(0, sample) for sample in range(2)]
    assert float((dropped.prefill - merged.prefill).abs().max()) > EFFECT
