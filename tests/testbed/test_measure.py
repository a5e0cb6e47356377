"""The figures of the model card: intervals, stages and tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from training.testbed.card import FROM, TO, accuracy_table, stages, write_tables
from training.testbed.measure import interval, measure, runs
from vtprune.testbed.models import load_folder
from vtprune.testbed.tasks import Testbed


def test_independent_questions_have_wilsons_interval() -> None:
    right = np.array([1.0] * 37 + [0.0] * 13)
    found = interval(right, np.zeros(50), np.arange(50))
    expected = binomtest(37, 50).proportion_ci(method="wilson")
    assert (found["accuracy"], found["n"]) == (0.74, 50)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_questions_that_stand_or_fall_together_count_once() -> None:
    """Fifty scenes of four equal questions tell as much as fifty questions."""
    once = np.array([1.0] * 37 + [0.0] * 13)
    found = interval(np.repeat(once, 4), np.zeros(200), np.repeat(np.arange(50), 4))
    alone = interval(once, np.zeros(50), np.arange(50))
    assert (found["low"], found["high"]) == (alone["low"], alone["high"])


def test_a_group_is_the_mean_of_its_types() -> None:
    right = np.array([1.0] * 90 + [0.0] * 5 + [1.0] * 5)
    types = np.array(["many"] * 90 + ["few"] * 10)
    assert interval(right, types, np.arange(100))["accuracy"] == 0.75


def test_the_interval_covers() -> None:
    """Of 95 % intervals, about 95 % hold the truth, also with scenes that are easier than others."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        ease = rng.choice([0.6, 1.0], 60)
        right = (rng.random((60, 6)) < ease[:, None]).astype(float)
        found = interval(right.ravel(), np.zeros(360), np.repeat(np.arange(60), 6))
        inside += found["low"] <= 0.8 <= found["high"]
    assert 0.92 < inside / 400 < 0.985


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_all_right_or_all_wrong_still_has_an_interval(right: float) -> None:
    found = interval(np.full(40, right), np.zeros(40), np.arange(40))
    assert found["accuracy"] == right
    assert 0.05 < found["high"] - found["low"] < 0.12


def test_measuring_and_tables(folder: Path, tmp_path: Path) -> None:
    """Random weights answer nothing, and each table has a row for every type."""
    model, processor = load_folder(folder)
    kinds = runs(folder.name, 2, 0)
    assert kinds["video"].frames == ("images" if folder.name == "nano" else "native")
    measured = {
        kind: measure(model, processor, Testbed(**{**task.model_dump(), "questions": 2}))
        for kind, task in kinds.items()
    }
    assert measured["image/hard"]["all"]["n"] == 4
    assert measured["image/hard"]["all"]["accuracy"] < 0.5
    metrics = {"model": folder.name, "runs": measured}
    table = accuracy_table(metrics)
    for name in measured["image/easy"]["types"]:
        assert f"`{name}`" in table
    page = tmp_path / "page.md"
    page.write_text(f"before\n{FROM}\nold\n{TO}\nafter\n", encoding="utf-8")
    write_tables(page, [metrics])
    write_tables(page, [metrics])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count(table) == 1


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match="once each"):
        write_tables(page, [])
    assert page.read_text(encoding="utf-8") == "text"


def test_stages_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    entries = [
        {"seconds": 3, "stage": "vision", "step": 0},
        {"seconds": 60, "stage": "vision", "ended_at": 100},
        {"seconds": 61, "stage": "single", "step": 0},
        {"seconds": 90, "stage": "single", "ended_at": 40},
        {"seconds": 95, "stage": "single", "held_out": "image", "accuracy": {}},
    ]
    log.write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    assert stages(log) == [
        {"stage": "vision", "steps": 100, "seconds": 60},
        {"stage": "single", "steps": 40, "seconds": 30},
    ]
