"""Tables: the numbers are the summary's, marks stand only for tests, and no text breaks out of its format."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.study.frames import FakeCell, demo_results, fake_results, scores_of
from vtprune.study.statistics import Summary, summarise
from vtprune.study.tables import accuracy_table, make_sheets, to_latex, to_markdown

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(demo_results(n=120, seeds=2), compare_to="random", resamples=300)


def console(summary: Summary, width: int = 200, **options: str) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(accuracy_table(summary, **options))
    return file.getvalue()


def markdown_cells(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_entries_are_the_summarys_numbers(summary: Summary) -> None:
    (sheet,) = make_sheets(summary)
    assert sheet.columns == ("any", "0.1", "0.25", "0.5")
    assert [name for name, _ in sheet.rows] == ["unpruned", "downsampled", "good", "plain", "random", "good reversed"]
    table = {name: dict(zip(sheet.columns, entries, strict=True)) for name, entries in sheet.rows}
    for row in summary.accuracy.to_dict("records"):
        entry = table[row["label"]].pop("any" if row["budget"] is None else str(row["budget"]))
        assert entry is not None
        assert entry.text == f"{100 * row['accuracy']:.1f} ± {50 * (row['ci_high'] - row['ci_low']):.1f}"
    assert {entry for line in table.values() for entry in line.values()} == {None}


def test_marks_stand_exactly_for_significant_comparisons(summary: Summary) -> None:
    cells = markdown_cells(to_markdown(summary))
    for row in summary.comparisons.to_dict("records"):
        if row["own"]:
            continue
        text = cells[row["label"]][cells["method"].index(str(row["budget"]))]
        worse, better = ("↓", "↑") if row["against"] == "unpruned" else ("-", "+")
        assert (worse in text) == (row["significant"] and row["difference"] < 0)
        assert (better in text) == (row["significant"] and row["difference"] > 0)
    assert summary.comparisons["significant"].any()
    nothing = replace(summary, comparisons=summary.comparisons.assign(significant=False))
    assert not re.search(r"\d (↓|↑|-|\+)", to_markdown(nothing))


def test_the_best_of_each_budget_is_bold_and_never_the_unpruned_model(summary: Summary) -> None:
    cells = markdown_cells(to_markdown(summary))
    assert [text.startswith("**") for text in cells["good"]] == [False, True, True, True]
    assert not any("**" in text for name in ("unpruned", "plain", "random") for text in cells[name])


def test_captions_explain_marks_and_footnotes_say_what_is_not_resolved(summary: Summary) -> None:
    rendered = {render: re.sub(r"\s+", " ", render(summary)) for render in (console, to_markdown, to_latex)}
    for text in rendered.values():
        assert "worse or better than the unpruned model" in text
        assert "worse or better than random" in text
        assert "not a claim of a difference" in text
        assert "120 samples in 30 independent groups" in text
    easiest = 100 * summary.comparisons.loc[summary.comparisons["against"] == "random", "resolvable"].min()
    assert "Against random: 120 samples in 30 independent groups and 12 comparisons" in rendered[to_markdown]
    assert f"at least {easiest:.1f} points" in rendered[to_markdown]
    alone = summarise(demo_results(n=12, budgets=(0.5,)), resamples=100)
    assert "- +" not in to_markdown(alone)


def test_latex_is_balanced_booktabs(summary: Summary) -> None:
    text = to_latex(summary)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 7
    assert {line.count("&") for line in rows} == {4}
    assert re.search(r"\\textbf\{\d+\.\d \$\\pm\$ \d+\.\d\}", text)
    assert r"$^{\downarrow" in text
    assert not set(text) & set("±↓↑…")


def test_names_cannot_break_the_format() -> None:
    label = r"a_b|c&d%e#{f}~^\ *[bold]<x>$"
    cells = [FakeCell("full", scores_of([1, 0, 1]), role="full"), FakeCell(label, scores_of([1, 0, 0]))]
    cells += [FakeCell("other", scores_of([1, 1, 1]), axes={"stages.0.lambda_": "x_1", "budget": "keep_tokens=64"})]
    summary = summarise(fake_results(cells), compare_to=label, resamples=100)
    latex = to_latex(summary)
    assert (
        r"a\_b|c\&d\%e\#\{f\}\textasciitilde{}\textasciicircum{}\textbackslash{} *[bold]\textless{}x\textgreater{}\$"
        in latex
    )
    assert r"other lambda\_=x\_1" in latex
    assert r"keep\_tokens=64" in latex
    row = next(line for line in to_markdown(summary).splitlines() if line.startswith(r"| a\_b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert label in console(summary)


def test_groups_are_columns_on_request(summary: Summary) -> None:
    cells = markdown_cells(to_markdown(summary, columns="group"))
    assert cells["method"] == ["all", "local", "global"]
    wanted = summary.types[(summary.types["name"] == "good budget=0.1") & (summary.types["type"] == "local")].iloc[0]
    assert f"{100 * wanted['accuracy']:.1f} ±" in cells["good budget=0.1"][1]
    assert "the others were not tested" in to_markdown(summary, columns="group")
    assert "local" in console(summary, columns="group")
    ungrouped = demo_results(n=24, budgets=(0.5,))
    ungrouped.groups = {}
    text = to_markdown(summarise(ungrouped, resamples=100), columns="group")
    assert markdown_cells(text)["method"] == ["all", "colour", "count", "where"]


def test_partial_and_missing_variants_are_footnotes() -> None:
    cells = [FakeCell("full", scores_of([1, 0, 1, 1]), role="full")]
    cells.append(FakeCell("half", scores_of([1, 0]), axes={"budget": 0.5}, status="partial"))
    cells.append(FakeCell("broken", {}, axes={"budget": 0.5}, status="failed", error="out of memory"))
    summary = summarise(fake_results(cells), resamples=100)
    text = to_markdown(summary)
    rows = markdown_cells(text)
    assert rows["half"][1].endswith("…")
    assert rows["broken"] == ["-", "-"]
    assert "… half budget=0.5: partial: 2 of 4 answers." in text
    assert "out of memory" in text
    assert "$^{\\dagger}$" in to_latex(summary)
    for columns in ("budget", "group"):
        assert "broken" in console(summary, columns=columns)


def test_models_and_tasks_have_sections_of_their_own() -> None:
    cells = [
        FakeCell(label, scores_of([1, 0, 1]), role=role, axes=axes, model=model, task=task)
        for model in ("small", "large")
        for task in ("reading", "counting")
        for label, role, axes in (("full", "full", {}), ("new", "recipe", {"budget": len(model) + len(task)}))
    ]
    summary = summarise(fake_results(cells), resamples=100)
    titles = ["small / reading", "small / counting", "large / reading", "large / counting"]
    assert [sheet.title for sheet in make_sheets(summary)] == titles
    assert to_latex(summary).count(r"\begin{table}") == 4
    text = console(summary)
    assert all(title in text for title in titles)


def test_cells_of_a_factorial_are_left_to_attribution_and_that_is_said() -> None:
    cells = [FakeCell("full", scores_of([1, 0, 1]), role="full"), FakeCell("new", scores_of([1, 0, 1]))]
    cells += [FakeCell("factorial", scores_of([1, 0, 1]), axes={"scorer": name}) for name in "ab"]
    (sheet,) = make_sheets(summarise(fake_results(cells), resamples=100))
    assert [name for name, _ in sheet.rows] == ["full", "new"]
    assert "The cells of the factorial are not listed." in sheet.footnotes


def test_budgets_of_several_stages_have_a_row_each() -> None:
    cells = [
        FakeCell("two", scores_of(scores), axes={"stages.0.budget": 0.5, "stages.1.budget": second})
        for second, scores in ((0.5, [1, 1, 1]), (0.25, [0, 0, 0]))
    ]
    (sheet,) = make_sheets(summarise(fake_results(cells), resamples=100))
    assert [name for name, _ in sheet.rows] == ["two budget=0.5", "two budget=0.25"]


def test_an_empty_summary_makes_empty_tables() -> None:
    summary = summarise(fake_results([]))
    assert to_markdown(summary) == to_latex(summary) == ""
    assert "method" in console(summary)


def test_a_narrow_console_wraps_intervals_and_keeps_names_and_numbers(summary: Summary) -> None:
    text = console(summary, width=60)
    (sheet,) = make_sheets(summary)
    assert max(map(len, text.splitlines())) <= 60
    for name, entries in sheet.rows:
        assert any(name in line for line in text.splitlines())
        assert all(entry.text.split(" ±")[0] in text for entry in entries if entry is not None)
    assert "…" not in text
