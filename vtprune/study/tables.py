"""Accuracy tables for the console, Markdown and LaTeX.

Methods as rows; budgets, or groups of question types, as columns; an entry is the accuracy in per cent and half the
width of its interval. A mark stands only where a test found a difference; what a table cannot resolve, and what is
unfinished, is in its footnotes. The cells of a factorial have tables of their own, see `vtprune.study.attribution`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from vtprune.study.statistics import Summary
from vtprune.study.statistics.panel import FACTORIAL, last

if TYPE_CHECKING:
    import pandas as pd

Columns = Literal["budget", "group"]
NO_BUDGET = "any"
OVERALL = "all"
OWN_RANDOM = "own random"
MARKS = {"worse": "↓", "better": "↑", "below": "-", "above": "+"}
LATEX_MARKS = {"↓": r"\downarrow", "↑": r"\uparrow", "…": r"\dagger", "‡": r"\ddagger"}
PARTIAL, UNEQUAL = "…", "‡"
TOLERANCE = 0.02
"""Share of the unpruned model's tokens by which two sides of a mark may differ, mean over layers."""


@dataclass(frozen=True)
class Entry:
    """One accuracy; marks: of `MARKS`, `UNEQUAL` and `PARTIAL`; best: the highest estimate of its column."""

    accuracy: float
    half_width: float
    marks: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """``81.2 ± 3.4`` in per cent, without marks."""
        return f"{100 * self.accuracy:.1f} ± {100 * self.half_width:.1f}"


METHOD_WIDTH = 24
"""Characters of a method's name that stay on one line however narrow the console is."""


@dataclass(frozen=True)
class Sheet:
    """One model on one task. rows: name of a method and its entries, None where there is none."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry | None, ...]], ...]
    caption: str
    footnotes: tuple[str, ...]


def accuracy_table(summary: Summary, *, columns: Columns = "budget") -> Table:
    """All models and tasks in one table for the console, a section each."""
    sheets = make_sheets(summary, columns)
    names = list(dict.fromkeys(name for sheet in sheets for name in sheet.columns))
    notes = list(dict.fromkeys(f"{sheet.title}: {note}" for sheet in sheets for note in sheet.footnotes))
    table = Table(title="accuracy (%)", caption=_escape_rich("\n".join([*{s.caption for s in sheets}, *notes])))
    table.caption_justify = "left"
    longest = max((len(method) for sheet in sheets for method, _ in sheet.rows), default=0)
    table.add_column("method", min_width=min(longest, METHOD_WIDTH))
    for name in names:
        table.add_column(_escape_rich(name), justify="right")  # where it is narrow, an interval wraps below its number
    for sheet in sheets:
        table.add_section()
        table.add_row(f"[italic]{_escape_rich(sheet.title)}[/]")
        for method, entries in sheet.rows:
            found = dict(zip(sheet.columns, entries, strict=True))
            table.add_row(_escape_rich(method), *(_rich(found.get(name)) for name in names))
    return table


def to_markdown(summary: Summary, *, columns: Columns = "budget") -> str:
    """A table per model and task, with its caption and footnotes below."""
    parts = []
    for sheet in make_sheets(summary, columns):
        head = ["method", *map(escape_markdown, sheet.columns)]
        lines = [f"**{escape_markdown(sheet.title)}**: accuracy (%)", "", _bars(head)]
        lines.append(_bars([":--", *["--:"] * len(sheet.columns)]))
        lines += [_bars([escape_markdown(name), *map(_markdown, entries)]) for name, entries in sheet.rows]
        lines += ["", escape_markdown(sheet.caption), ""]
        lines += [f"- {escape_markdown(note)}" for note in sheet.footnotes]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def to_latex(summary: Summary, *, columns: Columns = "budget") -> str:
    """A ``table`` environment per model and task; needs the package booktabs. Footnotes are part of the caption."""
    parts = []
    for sheet in make_sheets(summary, columns):
        caption = " ".join([f"Accuracy (\\%) of {_tex(sheet.title)}.", *map(_tex, [sheet.caption, *sheet.footnotes])])
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(sheet.columns)}}}", r"\toprule"]
        lines += [_ampersands(["method", *map(_tex, sheet.columns)]), r"\midrule"]
        lines += [_ampersands([_tex(name), *map(_latex, entries)]) for name, entries in sheet.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def make_sheets(summary: Summary, columns: Columns = "budget") -> list[Sheet]:
    """What every rendering shows; one sheet per model and task, in the plan's order."""
    listed = summary.accuracy[summary.accuracy["label"] != FACTORIAL]
    make = _by_budget if columns == "budget" else _by_group
    return [
        make(summary, f"{model} / {task}", rows)
        for (model, task), rows in listed.groupby(["model", "task"], sort=False)
    ]


def _by_budget(summary: Summary, title: str, rows: pd.DataFrame) -> Sheet:
    budgets = sorted({b for b in rows["budget"] if b is not None}, key=lambda b: (isinstance(b, str), b))
    columns = [*([None] if rows["budget"].isna().any() else []), *budgets]
    marks = _marks(summary)
    best = rows.loc[rows["role"] != "full"].groupby("budget")["accuracy"].max().to_dict()
    table: dict[str, dict[Any, Entry]] = {}
    for row in rows.to_dict("records"):
        is_best = row["role"] != "full" and row["budget"] is not None and row["accuracy"] == best.get(row["budget"])
        line = table.setdefault(_method(row), {})
        if not math.isnan(row["accuracy"]):
            line[row["budget"]] = _entry(row, marks, is_best)
    lines = tuple((name, tuple(line.get(budget) for budget in columns)) for name, line in table.items())
    names = tuple(NO_BUDGET if budget is None else str(budget) for budget in columns)
    return Sheet(title, names, lines, _caption(summary, "budget"), _footnotes(summary, rows))


def _by_group(summary: Summary, title: str, rows: pd.DataFrame) -> Sheet:
    """Groups of types as columns, or the types themselves where a task has no groups."""
    first = rows.iloc[0]
    types = summary.types
    types = types[(types["model"] == first["model"]) & (types["task"] == first["task"])]
    kind = "group" if (types["kind"] == "group").any() else "type"
    types = types[types["kind"] == kind]
    columns = list(dict.fromkeys(types["type"]))
    best = types[types["role"] != "full"].groupby("type")["accuracy"].max().to_dict()
    overall = rows.loc[rows["role"] != "full", "accuracy"].max()
    marks = _marks(summary)
    lines = []
    for row in rows.to_dict("records"):
        entries = [_entry(row, marks, row["role"] != "full" and row["accuracy"] == overall)]
        own = {part["type"]: part for part in types[types["name"] == row["name"]].to_dict("records")}
        for name in columns:
            entries.append(_entry(own[name], {}, row["role"] != "full" and own[name]["accuracy"] == best.get(name)))
        lines.append((row["name"], tuple(None if math.isnan(entry.accuracy) else entry for entry in entries)))
    caption = _caption(summary, "column") + f" Marks are for the column {OVERALL!r}; the others were not tested."
    return Sheet(title, (OVERALL, *columns), tuple(lines), caption, _footnotes(summary, rows))


def _entry(row: dict[str, Any], marks: dict[tuple[Any, ...], str], best: bool) -> Entry:
    found = marks.get((row["model"], row["task"], row["name"]), "")
    found += PARTIAL if row["status"] != "complete" else ""
    return Entry(row["accuracy"], (row["ci_high"] - row["ci_low"]) / 2, found, best)


def _method(row: dict[str, Any]) -> str:
    """Label and axes but the budget of the column: the first one, of recipes with a budget for each stage."""
    column = next((axis for axis in row["axes"] if last(axis) == "budget"), None)
    axes = [f"{last(axis)}={value}" for axis, value in row["axes"].items() if axis != column]
    return " ".join([row["label"], *axes])


def _marks(summary: Summary) -> dict[tuple[Any, ...], str]:
    """Marks of each variant that a test found different from the unpruned model or from the named reference."""
    marks: dict[tuple[Any, ...], str] = {}
    for row in _marked(summary).to_dict("records"):
        words = ("below", "above") if row["against"] == summary.compare_to else ("worse", "better")
        key, found = (row["model"], row["task"], row["name"]), MARKS[words[row["difference"] > 0]]
        found += UNEQUAL if row["unequal"] else ""
        marks[key] = "".join(dict.fromkeys(marks.get(key, "") + found))
    return marks


def _marked(summary: Summary) -> pd.DataFrame:
    """The comparisons that give a mark, with ``more`` (share of tokens that a variant has more than its reference, mean
    over layers) and ``unequal``, whether that is more than `TOLERANCE`; the unpruned model's marks are never."""
    found, accuracy = summary.comparisons, summary.accuracy
    found = found[found["significant"] & ~found["own"]]
    found = found.assign(more=found["retained_mean"] - found["reference_retained_mean"])
    pruned = ~found["against"].isin(accuracy.loc[accuracy["role"] == "full", "label"])
    return found.assign(unequal=pruned & (found["more"].abs() > TOLERANCE + 1e-9))


def _caption(summary: Summary, column: str) -> str:
    level = f"{100 * summary.settings.confidence:g} %"
    text = f"± half the width of the {level} interval. "
    text += f"{MARKS['worse']} {MARKS['better']}: worse or better than the unpruned model"
    if summary.compare_to is not None:
        text += f"; {MARKS['below']} {MARKS['above']}: worse or better than {summary.compare_to}"
    alpha = f"{summary.settings.alpha:.3g}"
    text += (
        f" (paired test, Holm-adjusted p < {alpha}). No mark: no difference was found, which is not the same as none."
    )
    if summary.comparisons["own"].any():
        text += " Marks are not about a recipe's own controls."
    return text + f" Bold: the highest estimate of a {column}, not a claim of a difference."


def _footnotes(summary: Summary, rows: pd.DataFrame) -> tuple[str, ...]:
    first, found = rows.iloc[0], summary.comparisons
    found = found[(found["model"] == first["model"]) & (found["task"] == first["task"])]
    notes = []
    listed = found[(found["label"] != FACTORIAL) & ~found["own"]]
    for against, family in listed.groupby("against", sort=False):
        notes.append(f"Against {against}: {_resolution(family)}.")
        for row in family[family["reference"].isna()].to_dict("records"):
            notes.append(f"{row['name']}: {row['note']}.")
    notes += _against_own_random(found)
    marked = _marked(summary)
    same = (marked["model"] == first["model"]) & (marked["task"] == first["task"])
    notes += _unequal_tokens(marked[same & marked["unequal"] & (marked["label"] != FACTORIAL)])
    if (found["label"] == FACTORIAL).any():
        notes.append("The cells of the factorial are not listed.")
    for row in rows[rows["status"] != "complete"].to_dict("records"):
        notes.append(f"{PARTIAL} {row['name']}: {row['note']}.")
    return tuple(dict.fromkeys(notes))


def _against_own_random(found: pd.DataFrame) -> list[str]:
    """One sentence: where each recipe was found better or worse than its own random control, and where not."""
    methods: dict[str, dict[str, list[str]]] = {}
    for row in found[found["against"] == OWN_RANDOM].to_dict("records"):
        budget = NO_BUDGET if row["budget"] is None else str(row["budget"])
        methods.setdefault(_method(row), {}).setdefault(verdict(row), []).append(budget)
    parts = [
        f"{method} " + ", ".join(f"{finding} at {', '.join(budgets)}" for finding, budgets in findings.items())
        for method, findings in methods.items()
    ]
    return [f"Against its own random control (same sites and budgets): {'; '.join(parts)}."] if parts else []


def _unequal_tokens(marked: pd.DataFrame) -> list[str]:
    """One sentence: which marks compare unlike numbers of tokens, and by how much; a recipe's controls go with it."""
    differences: dict[tuple[str, str, str], list[float]] = {}
    for row in marked.to_dict("records"):
        method = row["of"] if row["role"] == "control" and row["of"] else _method(row)
        key = (method, "more" if row["more"] > 0 else "fewer", row["against"])
        differences.setdefault(key, []).append(100 * abs(row["more"]))
    parts = []
    for (method, direction, against), values in differences.items():
        low, high = (f"{value:.0f}" for value in (min(values), max(values)))
        parts.append(f"{method} keeps {low if low == high else f'{low} to {high}'} points {direction} than {against}")
    text = f"{UNEQUAL} Equal budgets, but not equal tokens per layer: {'; '.join(parts)}"
    return [f"{text}. Read its own random control, or the curve over realised tokens."] if parts else []


def verdict(row: Mapping[str, Any]) -> str:
    """What a comparison found, in words."""
    if math.isnan(row["p_adjusted"]):
        return "not tested"
    if not row["significant"]:
        return "no difference found"
    return "better" if row["difference"] > 0 else "worse"


def _resolution(family: pd.DataFrame) -> str:
    tested = family.dropna(subset=["resolvable"])
    if not len(tested):
        return "nothing to compare with yet"
    low, high = (f"{100 * value:.1f}" for value in (tested["resolvable"].min(), tested["resolvable"].max()))
    size = f"{low} points" if low == high else f"{low} points (the easiest pair) to {high} points (the hardest)"
    return (
        f"{tested['n_samples'].max()} samples in {tested['n_clusters'].max()} independent groups and {len(tested)} "
        f"comparisons resolve, with 80 % power, differences of at least {size}"
    )


def _rich(entry: Entry | None) -> str:
    if entry is None:
        return "[dim]-[/]"
    text = f"[bold]{entry.text}[/]" if entry.best else entry.text
    return f"{text} {entry.marks}".rstrip()


def _markdown(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    text = f"**{entry.text}**" if entry.best else entry.text
    return f"{text} {escape_markdown(entry.marks)}".rstrip()


def _latex(entry: Entry | None) -> str:
    if entry is None:
        return "--"
    text = entry.text.replace("±", r"$\pm$")
    text = rf"\textbf{{{text}}}" if entry.best else text
    marks = " ".join(LATEX_MARKS.get(mark, mark) for mark in entry.marks)
    return f"{text}$^{{{marks}}}$" if marks else text


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape_rich(text: str) -> str:
    return text.replace("[", r"\[")


def escape_markdown(text: str) -> str:
    """Text as it is, on one line, whatever it holds."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text).replace("\n", " ")


TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "\n": " ",
    **{mark: f"${command}$" for mark, command in LATEX_MARKS.items()},
}


def _tex(text: str) -> str:
    return "".join(TEX.get(char, char) for char in text)
