"""A family that exists nowhere is served by recognition, and by an adapter registered as docs/adapters.md says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import vtprune
from tests.adapters.made_up import COLUMNS, ROWS, tiny_columns
from tests.exactness.helpers import (
    POWER,
    TOLERANCE,
    Stages,
    assert_agree,
    distance,
    generate,
    has_image,
    reference,
    survivors,
)
from tests.test_docs import ROOT, blocks
from vtprune.core import lookup
from vtprune.core.lookup import locate
from vtprune.core.plugins import discover
from vtprune.core.signals import Need
from vtprune.testing.models import Inputs

pytestmark = pytest.mark.filterwarnings("ignore")

BATCH = (1, 2, 0, 1)
ATTENTIONS = ("sdpa", "eager")
PER_HEAD = {"name": "attention", "head_reduction": "none"}
REMOVALS: dict[str, Stages] = {
    "random": [{"site": "projector.output", "scorer": "random", "budget": 0.3}],
    "layer": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.3}],
    "all": [
        {"site": "projector.output", "selector": "max_min", "budget": 0.7},
        {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.5, "scope": "image"},
        {"site": "llm.layers[1:3].kv", "scorer": PER_HEAD, "budget": 0.3},
    ],
}
WITH_A_MAP: dict[str, Stages] = {
    "vision": [{"site": "vision.output", "selector": "max_min", "budget": 0.4}],
    "grid": [{"site": "projector.output", "scorer": "uniform_grid", "budget": 0.4}],
    "tower": [{"site": "vision.output", "scorer": {"name": "cls_attention", "query": "received"}, "budget": 0.4}],
}


@pytest.fixture(params=["recognised", "plugin"])
def way(request: pytest.FixtureRequest) -> Any:
    """Without a line of code, or with the adapter of the documentation."""
    if request.param == "plugin":
        request.getfixturevalue("plugin")
    return request.param


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of docs/adapters.md, word for word, found through its entry point."""
    for block in blocks(ROOT / "docs" / "adapters.md"):
        if block.file is not None:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = discover([EntryPoint("columns", "vtprune_columns.plugin", "vtprune")])
    assert [str(plugin) for plugin in found.plugins if plugin.is_fault] == []
    monkeypatch.setattr(lookup, "registry", lambda: found.registry)
    yield
    for name in ("vtprune_columns.plugin", "vtprune_columns.adapter", "vtprune_columns"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_keeping_everything_changes_no_bit(way: str, attention: Any) -> None:
    tiny = tiny_columns(attention)
    model, inputs = tiny.model, tiny.make_inputs(BATCH, seed=3)
    assert locate(model).adapter.recognised == (way == "recognised")
    with torch.no_grad():
        logits, generated = model(**inputs).logits, generate(model, inputs)
        with vtprune.prune(model, {"stages": [{**stage, "budget": 1.0} for stage in REMOVALS["all"]]}):
            assert torch.equal(model(**inputs).logits, logits)
            found = generate(model, inputs)
    assert torch.equal(found.tokens, generated.tokens)
    assert torch.equal(found.logits, generated.logits)


@pytest.mark.parametrize("recipe", REMOVALS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_removal_is_masking(way: str, recipe: str, attention: Any) -> None:
    tiny = tiny_columns(attention)
    assert_exact(tiny.model, tiny.make_inputs(BATCH, seed=3), REMOVALS[recipe])


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("recipe", WITH_A_MAP)
def test_what_only_an_adapter_can_serve(recipe: str) -> None:
    tiny = tiny_columns()
    assert_exact(tiny.model, tiny.make_inputs(BATCH, seed=3), WITH_A_MAP[recipe])


@torch.no_grad()
def assert_exact(model: Any, inputs: Inputs, stages: Stages) -> None:
    unpruned = generate(model, inputs)
    with vtprune.prune(model, {"stages": stages}) as run:
        logits = model(**inputs).logits
        generated = generate(model, inputs)
        report = run.report
    with reference(model, report, inputs["input_ids"].shape[1]):
        expected_logits = model(**inputs).logits
        expected = generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    assert_agree(generated, expected)
    effect = (generated.logits - unpruned.logits).abs().amax((0, 2))
    assert bool((effect[has_image(inputs)] > POWER).all())


@pytest.mark.usefixtures("plugin")
def test_the_maps_of_the_documented_adapter_are_right() -> None:
    """Each token's features are those of the patch whose projection the model put there; separators have none."""
    from tests.exactness.helpers import spied

    tiny = tiny_columns()
    model, inputs = tiny.model, tiny.make_inputs((2,), seed=3)
    with torch.no_grad():
        seen, report = spied(model, inputs, "vision.output", Need("features"), Need("grid"))
        made = model.model.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)
        features = seen[0][1][Need("features")]
        projected = model.model.connector(features)
    separators = (torch.arange(len(features)) + 1) % (ROWS + 1) == 0
    torch.testing.assert_close(projected[~separators], made[~separators])
    assert not features[separators].any()
    assert [segment.grid for segment in report.layouts[0].segments] == [(1, COLUMNS, ROWS + 1)] * 2
