"""Physical removal equals the masked reference: prefill logits at every kept token, and every decoding step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtprune
from tests.exactness.helpers import (
    BATCHES,
    FAMILIES,
    PER_HEAD,
    POWER,
    STEPS,
    TOLERANCE,
    Stages,
    assert_agree,
    distance,
    family,
    generate,
    has_image,
    inputs_of,
    masks_of,
    matrix,
    plain,
    reference,
    run,
    survivors,
    two_samples,
)

RANDOM = {"scorer": "random"}
TABLE = {0: [0.1, 0.9], 1: [0.5, 0.25], 3: [1.0, 0.05]}
RAGGED = {"scorer": PER_HEAD, "selector": {"name": "top_p", "p": 0.4}}
DROPS: dict[str, Stages] = {
    "layer": [{"site": "llm.layers[2]", "scorer": "attention", "budget": 0.25}],
    "first_layer": [{"site": "llm.layers[0]", **RANDOM, "budget": 0.3}],
    "last_layer": [{"site": "llm.layers[-1]", "scorer": "attention", "budget": 0.2}],
    "projector": [{"site": "projector.output", **RANDOM, "budget": 0.4}],
    "vision": [{"site": "vision.output", "selector": "max_min", "budget": 0.3}],
    "range": [
        {
            "site": "llm.layers[1:]",
            "scorer": "attention",
            "allocator": {"name": "schedule", "shape": "linear", "end": 0.2},
            "budget": 0.4,
        }
    ],
    "stride": [
        {
            "site": "llm.layers[::2]",
            **RANDOM,
            "allocator": {"name": "schedule", "shape": "table", "table": {0: 0.6, 2: 0.2}},
        }
    ],
    "list": [
        {
            "site": "llm.layers[1,3]",
            "scorer": {"name": "attention", "query": "text"},
            "allocator": {"name": "schedule", "shape": "geometric", "ratio": 0.5},
            "budget": {"mean_tokens_over_layers": 12.5},
        }
    ],
    "threshold": [
        {
            "site": "llm.layers[1]",
            "scorer": "attention",
            "selector": {"name": "threshold", "value": 1, "relative": "mean"},
        }
    ],
    "protect": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.25, "protect": [0, 1, -1]}],
    "image_scope": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.3, "scope": "image"}],
    "one_token": [{"site": "projector.output", **RANDOM, "budget": {"keep_tokens": 1}}],
    "no_token": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.0}],
    "stages": [
        {"site": "vision.output", **RANDOM, "budget": 0.8},
        {"site": "projector.output", **RANDOM, "budget": 0.6},
        {"site": "llm.layers[1]", "scorer": {"name": "attention", "query": "text_after_vision"}, "budget": 0.4},
        {"site": "llm.layers[3]", "scorer": {"name": "attention", "layer": 0}, "budget": 0.2},
    ],
}
EVICTIONS: dict[str, Stages] = {
    "kv": [{"site": "llm.layers[0:].kv", "scorer": "attention", "budget": 0.15}],
    "kv_one_layer": [{"site": "llm.layers[1].kv", "scorer": "attention", "budget": 0.1}],
    "kv_heads": [{"site": "llm.layers[0:].kv", "scorer": PER_HEAD, "budget": 0.2}],
    "kv_heads_protect_image_scope": [
        {"site": "llm.layers[0:].kv", "scorer": PER_HEAD, "budget": 0.4, "scope": "image", "protect": [3]}
    ],
    "kv_ragged": [{"site": "llm.layers[0:].kv", **RAGGED}],
    "kv_table": [
        {
            "site": "llm.layers[0,1,3].kv",
            "scorer": PER_HEAD,
            "allocator": {"name": "schedule", "shape": "table", "table": TABLE},
        }
    ],
    "kv_no_token": [{"site": "llm.layers[0:].kv", "scorer": "attention", "budget": 0.0}],
}
BOTH: dict[str, Stages] = {
    "drop_then_kv": [
        DROPS["layer"][0] | {"site": "llm.layers[1]", "budget": 0.6},
        {"site": "llm.layers[1:].kv", **RAGGED},
    ],
    "kv_then_drop": [{"site": "llm.layers[0:2].kv", **RAGGED}, DROPS["layer"][0]],
    "programme": [
        {"site": "projector.output", **RANDOM, "budget": 0.8},
        {"site": "llm.layers[1,3]", "scorer": "attention", "budget": {"keep_ratio": 0.5}},
        {"site": "llm.layers[0:].kv", "scorer": PER_HEAD, "budget": 0.3},
    ],
}
RECIPES = DROPS | EVICTIONS | BOTH


def is_slow(name: str, batch: str, recipe: str) -> bool:
    if name in ("llava-sdpa", "qwen-sdpa"):
        return batch == "two_images" and recipe in DROPS
    if name.startswith("window"):
        return batch != "padded" or (recipe in DROPS and recipe not in ("layer", "stages"))
    return batch != "padded" or recipe not in ("layer", "kv_ragged", "programme")


@pytest.mark.parametrize(("name", "batch", "recipe"), matrix(FAMILIES, BATCHES, RECIPES, slow=is_slow))
def test_removal_equals_masking(name: str, batch: str, recipe: str) -> None:
    model, inputs, stages = family(name).model, inputs_of(name, batch), RECIPES[recipe]
    with vtprune.prune(model, {"stages": stages}) as pruning:
        logits, forward_report = model(**inputs).logits, pruning.report
        generated, report = generate(model, inputs), pruning.report
    assert [event.to_dict() for event in forward_report.events] == [event.to_dict() for event in report.events]

    with reference(model, report, inputs["input_ids"].shape[1]):
        expected_logits, expected = model(**inputs).logits, generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    if recipe not in EVICTIONS:
        assert not logits[~kept].any(), "rows of dropped tokens and padding are zeros"
    assert_agree(generated, expected)

    plain_logits, unpruned = plain(name, batch)
    effect = (generated.logits - unpruned.logits).abs().amax((0, 2))
    assert bool((effect[has_image(inputs)] > POWER).all()), f"the reference would not notice a missing prune: {effect}"
    assert bool((effect[~has_image(inputs)] < TOLERANCE).all())
    if recipe in EVICTIONS:
        assert torch.equal(logits, plain_logits)
        assert torch.equal(generated.logits[0], unpruned.logits[0])


@pytest.mark.parametrize(
    ("name", "side"), matrix(("llava-sdpa", "llava-eager", "window-sdpa", "qwen-sdpa", "qwen-eager"), ("left", "right"))
)
@pytest.mark.parametrize("recipe", ["layer", "stages", "drop_then_kv"])
def test_prefill_is_exact_on_either_side_of_padding(name: str, side: str, recipe: str) -> None:
    tiny = family(name)
    inputs = tiny.make_inputs(BATCHES["padded"], side=side, seed=11)
    with vtprune.prune(tiny.model, {"stages": RECIPES[recipe]}) as pruning:
        logits, report = tiny.model(**inputs).logits, pruning.report
    kept = survivors(report, inputs)
    with reference(tiny.model, report, inputs["input_ids"].shape[1]):
        assert distance(logits[kept], tiny.model(**inputs).logits[kept]) < TOLERANCE
    assert distance(logits[kept], tiny.model(**inputs).logits[kept]) > POWER


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
def test_protected_tokens_survive(name: str) -> None:
    for recipe in ("protect", "kv_heads_protect_image_scope"):
        stages = RECIPES[recipe]
        _, report = run(name, inputs_of(name, "padded"), stages, 1)
        for event in report.events:
            vision = report.layouts[event.sample].vision
            wanted = {token % vision for token in stages[0]["protect"]} if vision else set()
            assert all(wanted <= set(kept.tolist()) for kept in event.kept)


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
def test_ragged_recipes_are_ragged(name: str) -> None:
    """The recipes above exercise what their names say: heads that differ in which tokens, or in how many, they keep."""
    for recipe, differs in (("kv_heads", lambda kept: kept.tolist()), ("kv_ragged", len), ("kv_table", len)):
        _, report = run(name, inputs_of(name, "padded"), RECIPES[recipe], 1)
        assert any(differs(event.kept[0]) != differs(event.kept[-1]) for event in report.events)
    hide, hide_kv = masks_of(report, inputs_of(name, "padded")["input_ids"].shape[1])
    assert not hide
    assert sorted(hide_kv) == [0, 1, 3]


MODES: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "sampled_beams": {"num_beams": 2, "do_sample": True},
}


@pytest.mark.parametrize(
    ("name", "mode", "recipe"),
    matrix(
        ("llava-sdpa", "llava-eager", "window-sdpa", "qwen-sdpa", "qwen-eager"),
        MODES,
        ("layer", "kv_heads", "kv_ragged", "programme"),
        slow=lambda name, mode, recipe: mode == "sampled_beams" or ("eager" in name and recipe != "kv_ragged"),
    ),
)
def test_beams_and_several_sequences(name: str, mode: str, recipe: str) -> None:
    tiny, steps = family(name), STEPS // 2
    inputs = two_samples(name)
    generated, report = run(name, inputs, RECIPES[recipe], steps, **MODES[mode])
    with reference(tiny.model, report, inputs["input_ids"].shape[1]):
        expected = generate(tiny.model, inputs, steps, **MODES[mode])
    assert torch.equal(generated.tokens, expected.tokens)
    assert distance(generated.logits, expected.logits) < TOLERANCE
    if expected.scores is not None:
        assert distance(generated.scores, expected.scores) < TOLERANCE
    assert distance(generated.logits, generate(tiny.model, inputs, steps, **MODES[mode]).logits) > POWER

    _, single = run(name, inputs, RECIPES[recipe], 1)
    assert len(report.layouts) == len(report.kv_tokens) == len(report.vision_tokens) == 2
    assert [event.to_dict() for event in report.events] == [event.to_dict() for event in single.events]
    assert report.kv_tokens == single.kv_tokens
