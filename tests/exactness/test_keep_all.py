"""Keeping every token changes nothing: logits and generated tokens are bit-identical to the unhooked model."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import vtprune
from tests.exactness.helpers import (
    BATCHES,
    FAMILIES,
    PER_HEAD,
    Generated,
    family,
    generate,
    inputs_of,
    matrix,
    plain,
    two_samples,
)

ATTENTION = {"scorer": "attention", "budget": 1.0}
RANDOM = {"scorer": "random", "budget": 1.0}
MULTI_STAGE = [
    {"site": "projector.output", **RANDOM},
    {"site": "llm.layers[1,3]", "scorer": {"name": "attention", "query": "received"}, "budget": 1.0},
    {"site": "llm.layers[1:].kv", "scorer": PER_HEAD, "budget": 1.0},
]
RECIPES: dict[str, list[dict[str, Any]]] = {
    "vision": [{"site": "vision.output", **RANDOM}],
    "vision_merge": [{"site": "vision.output", "reducer": "merge", **RANDOM}],
    "projector": [{"site": "projector.output", **RANDOM}],
    "tower_attention": [
        {"site": "projector.output", "scorer": {"name": "cls_attention", "query": "received"}, "budget": 1.0}
    ],
    "layer": [{"site": "llm.layers[2]", **ATTENTION}],
    "first_layer": [{"site": "llm.layers[0]", **RANDOM}],
    "layers": [{"site": "llm.layers[1:4]", **ATTENTION}],
    "kv": [{"site": "llm.layers[1].kv", **ATTENTION}],
    "kv_per_head": [{"site": "llm.layers[0:].kv", "scorer": PER_HEAD, "budget": 1.0}],
    "multi_stage": MULTI_STAGE,
    "merge": [{"site": "llm.layers[1:]", "reducer": {"name": "merge", "weighting": "size"}, **ATTENTION}],
    "reindex": [
        {"site": "projector.output", "positions": "reindex", **RANDOM},
        {"site": "llm.layers[2]", "positions": "reindex", **ATTENTION},
    ],
    "image_scope": [{**stage, "scope": "image"} for stage in MULTI_STAGE],
    "no_count": [{"site": "llm.layers[2].kv", "scorer": PER_HEAD, "selector": {"name": "threshold", "value": 0.0}}],
}
MODES: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 1.5},
    "sequences": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


def assert_same(one: Generated, other: Generated) -> None:
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.logits, other.logits)
    assert one.scores is None or torch.equal(one.scores, other.scores)


def keeps_all(report: vtprune.Report) -> bool:
    """Every stage acted, and kept everything."""
    acted = {event.stage for event in report.events} == set(range(len(report.recipe.stages)))
    full = all(len(kept) == report.layouts[e.sample].vision for e in report.events for kept in e.kept)
    return acted and full


def is_slow(name: str, batch: str, recipe: str) -> bool:
    if name in ("llava-sdpa", "qwen-sdpa", "window-eager"):
        return batch == "two_images" and name != "qwen-sdpa"
    return batch != "padded" or recipe not in ("layers", "kv_per_head", "multi_stage")


@pytest.mark.parametrize(("name", "batch", "recipe"), matrix(FAMILIES, BATCHES, RECIPES, slow=is_slow))
def test_keeping_everything_changes_no_bit(name: str, batch: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    logits, generated = plain(name, batch)
    with vtprune.prune(model, {"stages": RECIPES[recipe]}) as run:
        assert torch.equal(model(**inputs).logits, logits)
        assert keeps_all(run.report)
        assert_same(generate(model, inputs), generated)
    assert torch.equal(model(**inputs).logits, logits), "the model is not as it was before"


@cache
def plain_mode(name: str, mode: str) -> Generated:
    with torch.no_grad():
        return generate(family(name).model, two_samples(name), 8, **MODES[mode])


@pytest.mark.parametrize(
    ("name", "mode", "recipe"),
    matrix(
        ("llava-sdpa", "llava-eager", "window-sdpa", "qwen-sdpa", "qwen-eager"),
        MODES,
        ("multi_stage", "kv_per_head", "reindex", "merge", "vision"),
        slow=lambda name, mode, recipe: "eager" in name or recipe not in ("multi_stage", "kv_per_head"),
    ),
)
def test_every_way_of_generating_is_untouched(name: str, mode: str, recipe: str) -> None:
    model, inputs = family(name).model, two_samples(name)
    with vtprune.prune(model, {"stages": RECIPES[recipe]}) as run:
        generated = generate(model, inputs, 8, **MODES[mode])
    assert_same(generated, plain_mode(name, mode))
    assert len(run.report.layouts) == 2


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-eager"])
def test_right_padding_is_untouched(name: str) -> None:
    tiny = family(name)
    inputs = tiny.make_inputs(BATCHES["padded"], side="right")
    expected = tiny.model(**inputs).logits
    with vtprune.prune(tiny.model, {"stages": MULTI_STAGE}):
        assert torch.equal(tiny.model(**inputs).logits, expected)
