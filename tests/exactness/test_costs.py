"""The report's FLOPs against PyTorch's counter, and budgets in costs against what was realised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

import vtprune
from tests.exactness.helpers import BATCHES, PER_HEAD, Stages, family, generate, inputs_of, matrix
from vtprune.core.report import Report

AGREEMENT = 0.01
RANDOM = {"scorer": "random"}
RECIPES: dict[str, Stages] = {
    "projector": [{"site": "projector.output", **RANDOM, "budget": 0.25}],
    "layers": [
        {
            "site": "llm.layers[1:]",
            **RANDOM,
            "allocator": {"name": "schedule", "shape": "linear", "end": 0.2},
            "budget": 0.4,
        }
    ],
    "kv": [{"site": "llm.layers[0:].kv", **RANDOM, "budget": 0.2}],
    "drop_then_kv": [
        {"site": "llm.layers[1]", **RANDOM, "budget": 0.5},
        {"site": "llm.layers[1:].kv", **RANDOM, "budget": 0.2},
    ],
}


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "batch", "recipe"), matrix(("llava-eager", "qwen-eager"), ("single", "padded"), RECIPES)
)
def test_reported_flops_are_what_ran(name: str, batch: str, recipe: str) -> None:
    """Eager attention: the counter has no entry for the sdpa kernel of the CPU."""
    model, inputs, found = family(name).model, inputs_of(name, batch), {}
    for steps in (1, 6):
        unpruned = counted(lambda steps=steps: generate(model, inputs, steps))
        with vtprune.prune(model, {"stages": RECIPES[recipe]}) as run:
            pruned = counted(lambda steps=steps: generate(model, inputs, steps))
        report = run.report
        assert report.flops == pytest.approx(pruned, rel=AGREEMENT)
        assert report.flops_full == pytest.approx(unpruned, rel=AGREEMENT)
        assert report.flops == sum(report.flops_parts[part] for part in ("vision", "prefill", "decode"))
        found[steps] = (report, pruned, unpruned)
    (first, pruned_1, unpruned_1), (last, pruned_6, unpruned_6) = found[1], found[6]
    assert last.new_tokens == 5
    assert first.flops_parts["decode"] == 0
    assert last.flops_parts["decode"] == pytest.approx(pruned_6 - pruned_1, rel=AGREEMENT)
    assert last.flops_parts["decode_full"] == pytest.approx(unpruned_6 - unpruned_1, rel=AGREEMENT)
    assert pruned_6 - pruned_1 < (unpruned_6 - unpruned_1) * 0.98, "pruning shows in what is counted"


@pytest.mark.parametrize("name", ["llava-eager", "qwen-eager"])
def test_forward_counts_every_row_of_the_head(name: str) -> None:
    model, inputs = family(name).model, inputs_of(name, "padded")
    with vtprune.prune(model, {"stages": RECIPES["layers"]}) as run:
        measured = counted(lambda: model(**inputs))
    assert run.report.flops == pytest.approx(measured, rel=AGREEMENT)


SITES: dict[str, dict[str, Any]] = {
    "projector": {"site": "projector.output", **RANDOM},
    "layer": {"site": "llm.layers[1]", **RANDOM},
    "layers": {"site": "llm.layers[1:]", **RANDOM},
    "decay": {
        "site": "llm.layers[0:]",
        **RANDOM,
        "allocator": {"name": "schedule", "shape": "geometric", "ratio": 0.7},
    },
    "kv": {"site": "llm.layers[0:].kv", **RANDOM},
    "kv_heads": {"site": "llm.layers[1:].kv", "scorer": PER_HEAD},
}
SPANS = {"projector": 4, "layer": 3, "layers": 1, "decay": 1, "kv": 1, "kv_heads": 1}
"""Decoder layers that one more token of the stage's finest step would stay in (of 4)."""


def report_of(name: str, batch: str, stages: Stages) -> Report:
    with vtprune.prune(family(name).model, {"stages": stages}) as run:
        generate(family(name).model, inputs_of(name, batch), 1)
    return run.report


@pytest.mark.parametrize(
    ("name", "batch", "site"),
    matrix(("llava-sdpa", "qwen-sdpa"), BATCHES, SITES, slow=lambda _, b, s: b == "two_images"),
)
@pytest.mark.parametrize("share", [0.55, 0.7])
def test_mean_tokens_are_met(name: str, batch: str, site: str, share: float) -> None:
    """Never above the request, and less than one token's stay below it."""
    least = min(
        layout.vision for layout in report_of(name, batch, [{**SITES["layer"], "budget": 1.0}]).layouts if layout.vision
    )
    most = max(layout.vision for layout in report_of(name, batch, [{**SITES["layer"], "budget": 1.0}]).layouts)
    wanted = round(share * least + 0.25 * (most - least), 2)
    report = report_of(name, batch, [{**SITES[site], "budget": {"mean_tokens_over_layers": wanted}}])
    for sample, layout in enumerate(report.layouts):
        if not layout.vision:
            continue
        held = report.vision_tokens[sample]
        if "kv" in site:
            held = [sum(heads) / len(heads) for heads in report.kv_tokens[sample]]
        mean = sum(held) / report.depth
        assert mean <= wanted
        assert mean > wanted - SPANS[site] / report.depth


@pytest.mark.parametrize(("name", "site"), matrix(("llava-sdpa", "qwen-sdpa"), SITES))
@pytest.mark.parametrize("ratio", [0.6, 0.83])
def test_kv_bytes_are_met(name: str, site: str, ratio: float) -> None:
    report = report_of(name, "single", [{**SITES[site], "budget": {"kv_bytes_ratio": ratio}}])
    tokens = report.layouts[0].vision + report.text_tokens[0]
    realised = report.kv_bytes / report.kv_bytes_full
    assert realised <= ratio
    assert realised > ratio - SPANS[site] / (report.depth * tokens)


@pytest.mark.parametrize(
    ("name", "site"), matrix(("llava-sdpa", "llava-eager", "qwen-sdpa"), ("projector", "layer", "layers"))
)
@pytest.mark.parametrize("ratio", [0.66, 0.8])
def test_prefill_flops_are_met(name: str, site: str, ratio: float) -> None:
    """The largest count whose prefill is within the ratio: one more token at the stage's layers would exceed it."""

    def realised(stage: dict[str, Any]) -> tuple[float, int]:
        report = report_of(name, "single", [stage])
        parts = report.flops_parts
        return parts["prefill"] / parts["prefill_full"], report.events[0].realised[0]

    found, count = realised({**SITES[site], "budget": {"flops_ratio": ratio}})
    more, _ = realised({**SITES[site], "budget": {"keep_tokens": count + 1}})
    assert found <= ratio < more


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
def test_flops_are_met_by_every_sample_of_a_batch(name: str) -> None:
    """Each sample's count is the one it gets alone."""
    tiny, stage = family(name), {**SITES["layer"], "budget": {"flops_ratio": 0.7}}
    together = report_of(name, "padded", [stage])
    for sample, count in enumerate(BATCHES["padded"]):
        if count:
            with vtprune.prune(tiny.model, {"stages": [stage]}) as run:
                generate(tiny.model, tiny.make_inputs((count,), seed=sample), 1)
            assert run.report.vision_tokens[0] == together.vision_tokens[sample]
