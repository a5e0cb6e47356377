"""Recipes against their own controls, and comparisons whose two sides differ in cost or have no budget in common."""

from __future__ import annotations

import io
import math
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.study.frames import FakeCell, FakeResults, fake_results, scores_of
from vtprune.study.plan import Merged
from vtprune.study.statistics import Summary, summarise
from vtprune.study.statistics.paired import holm
from vtprune.study.tables import accuracy_table, make_sheets, to_latex, to_markdown

pytestmark = pytest.mark.filterwarnings("error")
N = 60


def answers(right: int) -> dict[str, float]:
    """The first ``right`` of N samples are answered."""
    return scores_of((np.arange(N) < right).astype(float))


def demo() -> FakeResults:
    """fastv keeps more tokens than random and is no better than its own random control at 0.25; plphp is."""
    cells = [FakeCell("full", answers(58), role="full")]
    for budget, own in ((0.5, 30), (0.25, 49)):
        axes = {"budget": budget}
        cells += [
            FakeCell("random", answers(25), "baseline", axes | {"seed": 0}, budget),
            FakeCell("fastv", answers(50), axes=axes, retained=budget + 0.28),
            FakeCell("fastv (random)", answers(own - 1), "control", axes | {"seed": 0}, budget + 0.28, of="fastv"),
            FakeCell("fastv (random)", answers(own + 1), "control", axes | {"seed": 1}, budget + 0.28, of="fastv"),
            FakeCell("fastv (inverted)", answers(10), "control", axes, budget + 0.28, of="fastv"),
            FakeCell("plphp", answers(45), axes=axes, retained=budget + 0.02),
            FakeCell("plphp (random)", answers(20), "control", axes, budget + 0.02, of="plphp"),
        ]
    return fake_results(cells)


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(demo(), compare_to="random", resamples=100)


def own(summary: Summary, kind: str) -> pd.DataFrame:
    found = summary.comparisons
    return found[found["against"] == f"own {kind}"].set_index("name")


def console(summary: Summary) -> str:
    file = io.StringIO()
    Console(file=file, width=400, color_system=None).print(accuracy_table(summary))
    return re.sub(r"\s+", " ", file.getvalue())


# A recipe and its own controls


def test_each_recipe_meets_its_own_controls_at_its_budget_seeds_averaged(summary: Summary) -> None:
    found = own(summary, "random")
    assert dict(found["reference"]) == {
        "fastv budget=0.5": "fastv (random) budget=0.5",
        "plphp budget=0.5": "plphp (random) budget=0.5",
        "fastv budget=0.25": "fastv (random) budget=0.25",
        "plphp budget=0.25": "plphp (random) budget=0.25",
    }
    assert dict(found["difference"].round(6)) == {
        "fastv budget=0.5": round(20 / N, 6),
        "plphp budget=0.5": round(25 / N, 6),
        "fastv budget=0.25": round(1 / N, 6),
        "plphp budget=0.25": round(25 / N, 6),
    }
    assert dict(found["significant"]) == {
        "fastv budget=0.5": True,
        "plphp budget=0.5": True,
        "fastv budget=0.25": False,
        "plphp budget=0.25": True,
    }
    assert found["own"].all()
    assert list(own(summary, "inverted").index) == ["fastv budget=0.5", "fastv budget=0.25"]


def test_each_kind_of_control_is_a_family_of_its_own(summary: Summary) -> None:
    for kind, size in (("random", 4), ("inverted", 2)):
        found = own(summary, kind)
        assert set(found["n_comparisons"]) == {size}
        np.testing.assert_allclose(found["p_adjusted"], holm(found["p"].tolist()))
    others = summary.comparisons[~summary.comparisons["own"]]
    assert set(others["against"]) == {"full", "random"}


def merged(name: str, label: str, of: str | None, arm: str) -> dict[str, Any]:
    return asdict(Merged(name, label, of, f"{arm} seed=0", arm))


def test_a_control_planned_under_another_name_is_still_the_recipes_own() -> None:
    cells = [
        FakeCell("random", answers(20), "baseline", {"budget": budget, "seed": seed}, budget)
        for budget in (0.5, 0.25)
        for seed in (0, 1)
    ]
    cells += [FakeCell("top", answers(50), axes={"budget": budget}, retained=budget) for budget in (0.5, 0.25)]
    results = fake_results(cells)
    assert not summarise(results, resamples=100).comparisons["own"].any()
    results.study["merged"] = [
        merged(f"top (random) budget={budget} seed={seed}", "top (random)", "top", f"random budget={budget}")
        for budget in (0.5, 0.25)
        for seed in (0, 1)
    ]
    results.study["merged"].append(merged("x", "x", None, "random budget=0.5"))
    results.study["merged"].append(merged("gone (random)", "gone (random)", "gone", "random budget=0.5"))
    results.study["merged"].append(merged("top (oracle)", "top (oracle)", "top", "not here"))
    found = own(summarise(results, resamples=100), "random")
    assert dict(found["reference"]) == {"top budget=0.5": "random budget=0.5", "top budget=0.25": "random budget=0.25"}


def test_a_control_at_other_axes_is_no_reference_and_that_is_said() -> None:
    cells = [FakeCell("new", answers(50), axes={"budget": budget}) for budget in (0.5, 0.25)]
    cells.append(FakeCell("new (random)", answers(20), "control", {"budget": 0.5}, of="new"))
    cells.append(FakeCell("other (random)", answers(20), "control", {"budget": 0.5}, of="other"))
    found = own(summarise(fake_results(cells), resamples=100), "random")
    assert list(found.index) == ["new budget=0.5", "new budget=0.25"]
    assert found["reference"].tolist() == ["new (random) budget=0.5", None]
    assert "no control 'random' of it has its axes" in found["note"].iloc[1]


def test_marks_do_not_use_own_controls_and_one_footnote_sums_them_up(summary: Summary) -> None:
    (sheet,) = make_sheets(summary)
    rows = {name: dict(zip(sheet.columns, entries, strict=True)) for name, entries in sheet.rows}
    assert rows["fastv"]["0.5"].marks == "↓+‡"
    assert "Marks are not about a recipe's own controls." in sheet.caption
    line = (
        "Against its own random control (same sites and budgets): fastv better at 0.5, no difference found at 0.25; "
        "plphp better at 0.5, 0.25."
    )
    assert [note for note in sheet.footnotes if "own random control (" in note] == [line]
    assert not any("inverted" in note or "Against own" in note for note in sheet.footnotes)
    cells = [FakeCell("new", answers(50)), FakeCell("new (random)", answers(9), "control", of="new")]
    only_own = summarise(fake_results(cells), resamples=100)
    assert only_own.comparisons["significant"].any()
    (_, (entry,)) = make_sheets(only_own)[0].rows[0]
    assert entry is not None
    assert entry.marks == ""


# Costs of both sides


def test_comparisons_carry_the_realised_costs_of_both_sides(summary: Summary) -> None:
    costs = summary.accuracy.set_index("name")
    for row in summary.comparisons.to_dict("records"):
        for share in ("retained_mean", "retained_flops"):
            assert row[share] == costs.loc[row["name"], share]
            assert row[f"reference_{share}"] == costs.loc[row["reference"], share]
    lonely = summarise(fake_results([FakeCell("new", answers(9))]), resamples=100).comparisons.iloc[0]
    assert math.isnan(lonely["reference_retained_mean"])


def test_marks_of_unequal_tokens_say_so_in_every_rendering(summary: Summary) -> None:
    (sheet,) = make_sheets(summary)
    rows = {name: dict(zip(sheet.columns, entries, strict=True)) for name, entries in sheet.rows}
    for budget in ("0.5", "0.25"):
        assert "+‡" in rows["fastv"][budget].marks
        assert "+" in rows["plphp"][budget].marks
        assert "‡" not in rows["plphp"][budget].marks  # 2 points are within tolerance
        assert "‡" not in rows["random"][budget].marks  # only the unpruned model is another size
    note = "‡ Equal budgets, but not equal tokens per layer: fastv keeps 28 points more than random. "
    assert sum(text.startswith("‡") for text in sheet.footnotes) == 1
    for text in (to_markdown(summary), console(summary), to_latex(summary).replace(r"$\ddagger$", "‡")):
        assert note in text
        assert "Read its own random control, or the curve over realised tokens." in text
    assert r"\ddagger}$" in to_latex(summary)
    assert "‡" not in to_latex(summary)


# Budgets that are not there


def test_a_variant_without_a_budget_meets_no_reference_that_has_one() -> None:
    cells = [FakeCell("full", answers(58), role="full")]
    cells += [FakeCell("random", answers(20), "baseline", {"budget": budget}, budget) for budget in (0.5, 0.25)]
    cells += [FakeCell("threshold", answers(50)), FakeCell("fixed", answers(50), axes={"budget": 0.25})]
    summary = summarise(fake_results(cells), compare_to="random", resamples=100)
    found = summary.comparisons[summary.comparisons["against"] == "random"].set_index("name")
    assert dict(found["reference"]) == {"threshold": None, "fixed budget=0.25": "random budget=0.25"}
    assert found.loc["threshold", "note"] == "it has no single budget at which to meet 'random'"
    assert "threshold: it has no single budget at which to meet 'random'." in to_markdown(summary)
    unpruned = summary.comparisons[summary.comparisons["against"] == "full"]
    assert set(unpruned["reference"]) == {"full"}
    assert summary.accuracy["relative"].notna().all()
