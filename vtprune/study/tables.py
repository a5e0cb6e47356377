"""Accuracy tables for the console, Markdown and LaTeX.

Methods as rows; budgets, or groups of question types, as columns; an entry is the accuracy in per cent with its
interval. A mark stands only where a test found a difference; what a table cannot resolve, and what is
unfinished, is in its footnotes. The cells of a factorial have tables of their own, see `vtprune.study.attribution`.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from vtprune.study.footnotes import (
    COST_CAPTION,
    COSTS,
    EVICTS,
    LATEX_MARKS,
    MARKS,
    NO_BUDGET,
    OVERALL,
    PARTIAL,
    UNEQUAL,
    caption,
    footnotes,
    groups_caption,
    is_harmless,
    marked,
    method_name,
)
from vtprune.study.names import FACTORIAL
from vtprune.study.statistics import Summary

if TYPE_CHECKING:
    import pandas as pd

Columns = Literal["budget", "group"]


@dataclass(frozen=True)
class Entry:
    """One accuracy; marks: of `MARKS`, `UNEQUAL`, `EVICTS`, `PARTIAL`; best: the highest estimate of its column."""

    accuracy: float
    low: float
    high: float
    marks: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """As `interval_text`, without marks."""
        return interval_text(self.accuracy, self.low, self.high)


def interval_text(accuracy: float, low: float, high: float) -> str:
    """An estimate and its interval, shares of 1, in per cent: ``81.2 ± 3.4`` or ``100.0 (51-100)``.

    ± half the width stands where it gives both ends to half a point and stays between 0 and 100; else both ends are
    given, rounded outwards to whole points.
    """
    half = (high - low) / 2
    lopsided = abs((low + high) / 2 - accuracy) > 0.005 + 1e-9
    if not lopsided and min(low, accuracy - half) > 1e-9 and max(high, accuracy + half) < 1 - 1e-9:
        return f"{100 * accuracy:.1f} ± {100 * half:.1f}"
    least, most = (max(0, math.floor(100 * low + 1e-6)), min(100, math.ceil(100 * high - 1e-6)))
    return f"{100 * accuracy:.1f} ({least}-{most})"


NOTHING = "-"
METHOD_WIDTH = 24
"""Characters of a method's name that stand on one line of a console, however narrow it is."""


@dataclass(frozen=True)
class Sheet:
    """One model on one task. rows: name of a method and its entries, None where there is none. costs: for each row, the
    texts of the columns `COSTS`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry | None, ...]], ...]
    costs: tuple[tuple[str, ...], ...]
    caption: str
    footnotes: tuple[str, ...]


def accuracy_table(summary: Summary, *, columns: Columns = "budget") -> Table:
    """All models and tasks in one table for the console, a section each."""
    sheets = make_sheets(summary, columns)
    names = list(dict.fromkeys(name for sheet in sheets for name in sheet.columns))
    notes = list(dict.fromkeys(f"{sheet.title}: {note}" for sheet in sheets for note in sheet.footnotes))
    table = Table(title="accuracy (%)", caption=_escape_rich("\n".join([*{s.caption for s in sheets}, *notes])))
    table.caption_justify = "left"
    table.add_column("method", no_wrap=True)
    for name in names:
        table.add_column(_escape_rich(name), justify="right")  # where it is narrow, an interval wraps below its number
    for sheet in sheets:
        table.add_section()
        table.add_row(f"[italic]{_escape_rich(_folded(sheet.title))}[/]")
        for method, entries in sheet.rows:
            found = dict(zip(sheet.columns, entries, strict=True))
            table.add_row(_escape_rich(_folded(method)), *(_rich(found.get(name)) for name in names))
    return table


def to_markdown(summary: Summary, *, columns: Columns = "budget") -> str:
    """A table per model and task, with its caption and footnotes below."""
    parts = []
    for sheet in make_sheets(summary, columns):
        head = ["method", *map(escape_markdown, [*sheet.columns, *COSTS])]
        lines = [f"**{escape_markdown(sheet.title)}**: accuracy (%)", "", _bars(head)]
        lines.append(_bars([":--", *["--:"] * (len(head) - 1)]))
        for (name, entries), costs in zip(sheet.rows, sheet.costs, strict=True):
            lines.append(_bars([escape_markdown(name), *map(_markdown, entries), *costs]))
        lines += ["", escape_markdown(sheet.caption + COST_CAPTION), ""]
        lines += [f"- {escape_markdown(note)}" for note in sheet.footnotes]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def to_latex(summary: Summary, *, columns: Columns = "budget") -> str:
    """A ``table`` environment per model and task; needs the package booktabs. Footnotes are part of the caption."""
    parts = []
    for sheet in make_sheets(summary, columns):
        notes = [sheet.caption + COST_CAPTION, *sheet.footnotes]
        caption = " ".join([f"Accuracy (\\%) of {_tex(sheet.title)}.", *map(_tex, notes)])
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(sheet.columns) + len(COSTS))}}}", r"\toprule"]
        lines += [_ampersands(["method", *map(_tex, [*sheet.columns, *COSTS])]), r"\midrule"]
        for (name, entries), costs in zip(sheet.rows, sheet.costs, strict=True):
            lines.append(_ampersands([_tex(name), *map(_latex, entries), *costs]))
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
    shares: dict[str, dict[Any, dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        is_best = row["role"] != "full" and row["budget"] is not None and row["accuracy"] == best.get(row["budget"])
        line = table.setdefault(method_name(row), {})
        if not math.isnan(row["accuracy"]):
            line[row["budget"]] = _entry(row, marks, is_best)
            shares.setdefault(method_name(row), {})[row["budget"]] = row
    lines = tuple((name, tuple(line.get(budget) for budget in columns)) for name, line in table.items())
    names = tuple(NO_BUDGET if budget is None else str(budget) for budget in columns)
    costs = tuple(
        _costs([shares[name][budget] for budget in columns if budget in line]) for name, line in table.items()
    )
    return Sheet(title, names, lines, costs, caption(summary, "budget"), footnotes(summary, rows))


def _by_group(summary: Summary, title: str, rows: pd.DataFrame) -> Sheet:
    """Groups of types as columns, or the types themselves where a task has no groups."""
    first = rows.iloc[0]
    types = summary.types
    every = types = types[(types["model"] == first["model"]) & (types["task"] == first["task"])]
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
    text = caption(summary, "column") + f" Marks are for the column {OVERALL!r}; the others were not tested."
    text += groups_caption(every)
    costs = tuple(_costs([] if math.isnan(row["accuracy"]) else [row]) for row in rows.to_dict("records"))
    return Sheet(title, (OVERALL, *columns), tuple(lines), costs, text, footnotes(summary, rows))


def _costs(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The texts of `COSTS` for the variants of one row of a table."""
    return tuple(" / ".join(_share(row[column]) for row in rows) or NOTHING for column in COSTS.values())


def _share(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{100 * value:.0f}"


def _entry(row: dict[str, Any], marks: dict[tuple[Any, ...], str], best: bool) -> Entry:
    found = marks.get((row["model"], row["task"], row["name"]), "")
    found += EVICTS if row.get("evicts_only") and is_harmless(row) else ""
    found += PARTIAL if row["status"] != "complete" else ""
    return Entry(row["accuracy"], row["ci_low"], row["ci_high"], found, best)


def _marks(summary: Summary) -> dict[tuple[Any, ...], str]:
    """Marks of each variant that a test found different from the unpruned model or from the named reference."""
    marks: dict[tuple[Any, ...], str] = {}
    for row in marked(summary).to_dict("records"):
        words = ("below", "above") if row["against"] == summary.compare_to else ("worse", "better")
        key, found = (row["model"], row["task"], row["name"]), MARKS[words[row["difference"] > 0]]
        found += UNEQUAL if row["unequal"] else ""
        marks[key] = "".join(dict.fromkeys(marks.get(key, "") + found))
    return marks


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
    text = entry.text.replace("±", r"$\pm$").replace("-", "--")
    text = rf"\textbf{{{text}}}" if entry.best else text
    marks = " ".join(LATEX_MARKS.get(mark, mark) for mark in entry.marks)
    return f"{text}$^{{{marks}}}$" if marks else text


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _folded(text: str) -> str:
    return "\n".join(textwrap.wrap(text, METHOD_WIDTH, break_on_hyphens=False))


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
