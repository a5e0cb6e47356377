"""Tables: the numbers are the summary's, marks stand only for tests, and no text breaks out of its format."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.study.frames import FakeCell, demo_results, fake_results, scores_of
from vtprune.study.footnotes import COSTS, verdict
from vtprune.study.statistics import Summary, summarise
from vtprune.study.tables import accuracy_table, interval_text, make_sheets, to_latex, to_markdown

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
        assert entry.text == interval_text(row["accuracy"], row["ci_low"], row["ci_high"])
    assert {entry for line in table.values() for entry in line.values()} == {None}


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "text"),
    [
        (0.812, 0.778, 0.846, "81.2 ± 3.4"),
        (0.969, 0.9492, 0.9844, "96.9 ± 1.8"),  # its ends are a quarter of a point off
        (1.0, 0.51, 1.0, "100.0 (51-100)"),
        (0.0, 0.0, 0.329, "0.0 (0-33)"),
        (0.95, 0.90, 1.0, "95.0 (90-100)"),
        (0.02, -0.01, 0.05, "2.0 (0-5)"),
        (0.5, 0.30, 0.60, "50.0 (30-60)"),
        (0.9995, 0.9972, 1.0, "100.0 (99-100)"),  # ends are rounded outwards, and so hold the interval
        (0.29, 0.28, 0.57, "29.0 (28-57)"),  # 100 * 0.29 and 100 * 0.57 are not whole as floats
    ],
)
def test_half_a_width_is_given_only_where_it_says_both_ends(
    accuracy: float, low: float, high: float, text: str
) -> None:
    assert interval_text(accuracy, low, high) == text


def test_lopsided_intervals_look_alike_in_every_format_and_the_caption_explains_them() -> None:
    cells = [FakeCell("full", scores_of([1] * 4), role="full"), FakeCell("new", scores_of([0] * 4))]
    summary = summarise(fake_results(cells), resamples=100)
    assert markdown_cells(to_markdown(summary))["full"][0] == "100.0 (51-100)"
    assert r"full & 100.0 (51--100)" in to_latex(summary)
    assert "0.0 (0-49)" in console(summary)
    for text in (to_markdown(summary), to_latex(summary), console(summary)):
        assert "in brackets its ends, where that would be off by more than half a point" in re.sub(r"\s+", " ", text)
        assert "100.0 ±" not in text


def test_marks_stand_exactly_for_significant_comparisons(summary: Summary) -> None:
    cells = markdown_cells(to_markdown(summary))
    for row in summary.comparisons.to_dict("records"):
        if row["own"]:
            continue
        text = cells[row["label"]][cells["method"].index(str(row["budget"]))]
        text = re.sub(r"\d-\d", "", text)  # of an interval
        worse, better = ("↓", "↑") if row["against"] == "unpruned" else ("-", "+")
        assert (worse in text) == (row["significant"] and row["difference"] < 0)
        assert (better in text) == (row["significant"] and row["difference"] > 0)
    assert summary.comparisons["significant"].any()
    nothing = replace(summary, comparisons=summary.comparisons.assign(significant=False))
    assert not re.search(r"\d (↓|↑|-|\+)", to_markdown(nothing))


def test_the_best_of_each_budget_is_bold_and_never_the_unpruned_model(summary: Summary) -> None:
    cells = markdown_cells(to_markdown(summary))
    assert [text.startswith("**") for text in cells["good"]] == [False, True, True, True, False, False]
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


def few(pictures: int, budgets: tuple[float, ...] = (0.5,)) -> Summary:
    """Five questions about each picture, all wrong after pruning."""
    ids = [f"q{i:03d}" for i in range(5 * pictures)]
    groups = {name: f"picture {i // 5}" for i, name in enumerate(ids)}
    cells = [FakeCell("full", scores_of([1, 1, 1, 1, 0] * pictures), role="full")]
    cells += [FakeCell("new", scores_of([0] * len(ids)), axes={"budget": budget}) for budget in budgets]
    return summarise(fake_results(cells, groups=groups), resamples=100)


def test_too_few_groups_are_said_to_find_nothing() -> None:
    (sheet,) = make_sheets(few(4))
    (note,) = (note for note in sheet.footnotes if note.startswith("Against full"))
    assert "no difference can be found with 20 samples in 4 independent groups" in note
    assert "no p below 0.12" in note
    assert "1 comparison needs at least 6 groups" in note
    assert "resolve" not in note
    row = few(4).comparisons.iloc[0]
    assert (row["p"], row["difference"]) == (0.125, -0.8)
    assert verdict(row) == "none can be found: too few samples"
    (found,) = make_sheets(few(6))
    assert any("with 80 % power, differences of at least" in note for note in found.footnotes)
    assert verdict(few(6).comparisons.iloc[0]) == "worse"


def test_a_footnote_never_promises_a_difference_above_everything(summary: Summary) -> None:
    found = summary.comparisons.assign(resolvable=float("inf"))
    enough = replace(summary, comparisons=found)
    (note,) = (note for note in make_sheets(enough)[0].footnotes if note.startswith("Against random"))
    assert "no difference can be found, with 80 % power" in note
    assert "inf" not in note
    found.loc[found["against"] == "random", "resolvable"] = [0.2, 0.4, *[float("inf")] * 10]
    (note,) = (note for note in make_sheets(enough)[0].footnotes if note.startswith("Against random"))
    assert "at least 20.0 points (the easiest pair) to 40.0 points" in note
    assert "10 of the pairs can show none" in note


def test_latex_is_balanced_booktabs(summary: Summary) -> None:
    text = to_latex(summary)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 7
    assert {line.count("&") for line in rows} == {6}
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
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert label in console(summary)


def test_groups_are_columns_on_request(summary: Summary) -> None:
    cells = markdown_cells(to_markdown(summary, columns="group"))
    assert cells["method"] == ["all", "local", "global", *COSTS]
    wanted = summary.types[(summary.types["name"] == "good budget=0.1") & (summary.types["type"] == "local")].iloc[0]
    assert interval_text(wanted["accuracy"], wanted["ci_low"], wanted["ci_high"]) in cells["good budget=0.1"][1]
    assert "the others were not tested" in to_markdown(summary, columns="group")
    assert "local" in console(summary, columns="group")
    ungrouped = demo_results(n=24, budgets=(0.5,))
    ungrouped.groups = {}
    text = to_markdown(summarise(ungrouped, resamples=100), columns="group")
    assert markdown_cells(text)["method"] == ["all", "colour", "count", "where", *COSTS]


def test_a_group_is_said_to_be_a_mean_of_types_with_the_questions_of_each() -> None:
    kinds = ["word"] * 20 + ["list"] * 2 + ["row"] * 6
    types = {f"q{i:03d}": kind for i, kind in enumerate(kinds)}
    cells = [FakeCell("full", scores_of([1.0] * 20 + [0.0] * 2 + [1.0, 0.0] * 3), role="full")]
    members = {"made-up": {"multi": ["list", "row", "gone"], "core": ["word"]}}
    summary = summarise(fake_results(cells, types=types, type_groups=members), resamples=100)
    wanted = (
        "A group is the mean of its types' accuracies, each weighing the same, however few questions it has: "
        "multi of list (n=2) and row (n=6); core of word (n=20)."
    )
    assert wanted in make_sheets(summary, "group")[0].caption
    assert "A group is" not in make_sheets(summary)[0].caption
    (row,) = summary.types[summary.types["type"] == "multi"].to_dict("records")
    assert (row["accuracy"], row["members"]) == (0.25, ["list", "row"])
    ungrouped = summarise(fake_results(cells, types=types), resamples=100)
    assert "A group is" not in make_sheets(ungrouped, "group")[0].caption


def evicting(new_tokens: int, kept: float = 0.4) -> Summary:
    """Two budgets of a method that evicts from the cache only, and one that drops tokens."""
    cells = [FakeCell("full", scores_of([1, 0, 1, 1]), role="full")]
    for budget in (0.25, 0.5):
        cells += [FakeCell(name, scores_of([1, 0, 1, 1]), axes={"budget": budget}) for name in ("evicts", "drops")]
    results = fake_results(cells)
    rows = results.samples
    results.samples["new_tokens"] = new_tokens
    evicts, drops = (rows["cell"].str.contains(name) for name in ("evicts", "drops"))
    rows.loc[evicts, "mean_kv_tokens"] = kept * rows.loc[evicts, "vision_tokens"]
    rows.loc[drops, ["mean_tokens", "mean_kv_tokens", "input_tokens"]] = 25.0
    return summarise(results, resamples=100)


def test_eviction_after_the_prompt_is_said_to_be_harmless_to_one_token_answers() -> None:
    summary = evicting(new_tokens=1)
    flags = summary.accuracy.set_index("name")["evicts_only"]
    assert flags[flags].index.tolist() == ["evicts budget=0.25", "evicts budget=0.5"]
    cells = markdown_cells(to_markdown(summary))
    assert [text.endswith("§") for text in cells["evicts"][:3]] == [False, True, True]
    assert not any("§" in text for text in [*cells["drops"], *cells["full"]])
    (note,) = (note for note in make_sheets(summary)[0].footnotes if note.startswith("§"))
    assert "evicts evicts from the KV cache only" in note
    assert "first token of an answer is the unpruned model's whatever is evicted" in note
    assert "100 % of its answers are of one token" in note
    assert "$^{\\S}$" in to_latex(summary)
    assert "evicts from the KV cache only" in re.sub(r"\s+", " ", console(summary))
    many = evicting(new_tokens=2)
    assert "§" not in to_markdown(many)
    assert (many.accuracy["one_token"] == 0).all()
    assert not evicting(new_tokens=1, kept=1.0).accuracy["evicts_only"].any()


def test_what_was_really_kept_stands_beside_the_budgets() -> None:
    cells = markdown_cells(to_markdown(evicting(new_tokens=1)))
    assert cells["method"][-2:] == list(COSTS)
    assert cells["full"][-2:] == ["100", "100"]
    assert cells["evicts"][-2:] == ["100 / 100", "40 / 40"]
    assert cells["drops"][-2:] == ["25 / 25", "25 / 25"]
    assert "really kept" in to_markdown(evicting(new_tokens=1))
    by_group = markdown_cells(to_markdown(evicting(new_tokens=1), columns="group"))
    assert by_group["evicts budget=0.5"][-2:] == ["100", "40"]
    assert "100 / 100 & 40 / 40" in to_latex(evicting(new_tokens=1))


def test_partial_and_missing_variants_are_footnotes() -> None:
    cells = [FakeCell("full", scores_of([1, 0, 1, 1]), role="full")]
    cells.append(FakeCell("half", scores_of([1, 0]), axes={"budget": 0.5}, status="partial"))
    cells.append(FakeCell("broken", {}, axes={"budget": 0.5}, status="failed", error="out of memory"))
    summary = summarise(fake_results(cells), resamples=100)
    text = to_markdown(summary)
    rows = markdown_cells(text)
    assert rows["half"][1].endswith("…")
    assert rows["broken"] == ["-", "-", "-", "-"]
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
        assert all(entry.text.split(" ")[0] in text for entry in entries if entry is not None)
    assert "…" not in text
