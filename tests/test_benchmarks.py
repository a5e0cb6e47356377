"""The benchmarks run from end to end at toy size and write what they promise; no timing is asserted."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks.common import Took as Seconds
from benchmarks.common import allocations, arguments, goal, summary

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["cli", "compaction", "probe", "speed", "studies"])
def test_runs_at_toy_size_and_writes_its_results(name: str, tmp_path: Path) -> None:
    options = arguments("").parse_args(["--toy", "--results", str(tmp_path), "--threads", str(torch.get_num_threads())])
    importlib.import_module(f"benchmarks.{name}").main(options)
    content = json.loads((tmp_path / f"{name}-cpu.json").read_text(encoding="utf-8"))
    assert content["benchmark"] == name
    assert content["versions"]["torch"] == torch.__version__
    assert content["goals"]
    assert all(set(line) == {"goal", "limit", "measured", "met"} for line in content["goals"])


def test_the_largest_allocation_is_seen() -> None:
    seen = allocations(lambda: torch.ones(1000, 1000).sum() + torch.ones(10).sum(), CPU)
    assert seen["largest"] == 4_000_000
    assert 4_000_000 <= seen["peak"] < 4_100_000


def test_the_peak_counts_what_lives_at_once() -> None:
    def two_at_once() -> torch.Tensor:
        first = torch.ones(1000, 1000)
        return (first + 1).sum()

    assert 8_000_000 <= allocations(two_at_once, CPU)["peak"] < 8_100_000


def test_ratios_are_taken_within_pairs() -> None:
    pairs = [(Seconds(1.0, 1.0), Seconds(2.0, 1.0)), (Seconds(10.0, 1.0), Seconds(20.0, 1.0))]
    found = summary(pairs)
    assert found["repeats"] == 2
    assert found["wall"]["ratio"] == 2.0
    assert found["cpu"]["ratio"] == 1.0


@pytest.mark.parametrize(("measured", "at_most", "met"), [(0.5, True, True), (1.5, True, False), (1.5, False, True)])
def test_goals_know_their_direction(measured: float, at_most: bool, met: bool) -> None:
    assert goal("", measured, 1.0, at_most)["met"] is met
