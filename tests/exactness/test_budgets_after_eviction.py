"""Budgets of a stage that finds some of the cache pruned already: still exact, and never exceeded."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

import vtprune
from vtprune.core.errors import BudgetError
from vtprune.core.report import Report
from vtprune.testing.models import Tiny, tiny_llava

RANDOM: dict[str, Any] = {"scorer": "random"}


def run_with(tiny: Tiny, *stages: dict[str, Any], **options: Any) -> Report:
    with vtprune.prune(tiny.model, {"stages": list(stages)}) as run, torch.no_grad():
        tiny.model(**tiny.make_inputs((1,), **options))
    assert run.report is not None
    return run.report


def per_head(layer: int, *counts: int) -> dict[str, Any]:
    """A stage that leaves that many of the 16 tokens to the KV heads of a layer."""
    table = {layer: tuple(count / 16 for count in counts)}
    return {
        **RANDOM,
        "site": f"llm.layers[{layer}].kv",
        "allocator": {"name": "schedule", "shape": "table", "table": table},
    }


def mean_in_cache(report: Report) -> Fraction:
    layers = [Fraction(sum(heads), len(heads)) for heads in report.kv_tokens[0]]
    return sum(layers, Fraction(0)) / len(layers)


@pytest.mark.parametrize("counts", [(2, 3), (3, 4), (0, 1), (16, 15)])
@pytest.mark.parametrize("wanted", [5.0, 4.75])
def test_heads_that_differ_count_with_their_exact_mean(counts: tuple[int, int], wanted: float) -> None:
    rest = {**RANDOM, "site": "llm.layers[1:].kv", "budget": {"mean_tokens_over_layers": wanted}}
    report = run_with(tiny_llava(), per_head(0, *counts), rest)
    assert report.kv_tokens[0][0] == list(counts)
    assert Fraction(wanted) - Fraction(1, report.depth) < mean_in_cache(report) <= Fraction(wanted)


@pytest.mark.parametrize("site", ["llm.layers[1:].kv", "llm.layers[1:]"])
@pytest.mark.parametrize("ratio", [0.5, 0.61])
def test_bytes_that_an_earlier_stage_has_saved_are_left_to_spend(site: str, ratio: float) -> None:
    report = run_with(tiny_llava(), per_head(0, 2, 3), {**RANDOM, "site": site, "budget": {"kv_bytes_ratio": ratio}})
    tokens = report.layouts[0].vision + report.text_tokens[0]
    realised = Fraction(report.kv_bytes, report.kv_bytes_full)
    assert Fraction(repr(ratio)) - Fraction(1, report.depth * tokens) < realised <= Fraction(repr(ratio))


def test_a_budget_out_of_reach_names_what_the_heads_hold() -> None:
    rest = {**RANDOM, "site": "llm.layers[1:].kv", "budget": {"mean_tokens_over_layers": 0.5}}
    with pytest.raises(BudgetError, match=r"hold 2\.5 vision tokens in sum, .* between 0\.625 and 12\.62"):
        run_with(tiny_llava(), per_head(0, 2, 3), rest)


@pytest.mark.parametrize("site", ["llm.layers[0:].kv", "llm.layers[1:]", "projector.output"])
def test_bytes_of_a_window_that_forgets_part_of_the_prompt_are_refused(site: str) -> None:
    """What a token takes there is known only once it is known which ones stay."""
    tiny = tiny_llava("sdpa", "mistral", sliding_window=24)
    stage = {**RANDOM, "site": site, "budget": {"kv_bytes_ratio": 0.8}}
    short = run_with(tiny, stage, text=(2, 3))
    assert short.kv_bytes / short.kv_bytes_full <= 0.8
    with pytest.raises(BudgetError, match=r"layer 0 caches no more than its window of 24 .* use keep_ratio"):
        run_with(tiny, stage, text=(9, 12))
    for other in ({"mean_tokens_over_layers": 13.0}, {"kv_bytes_ratio": 1.0}):
        assert run_with(tiny, {**stage, "budget": other}, text=(9, 12)).events
