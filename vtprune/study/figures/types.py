"""Accuracy by question type: which questions a method answers worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vtprune.study.figures.methods import with_names
from vtprune.study.figures.style import REFERENCE, Look, canvas, house_style, percent

MAX_COLUMNS = 4


def common_budget(types: pd.DataFrame) -> Any:
    """The budget that the most methods have, the lowest of those; None if no row has a budget."""
    named = with_names(types[types["budget"].notna()])
    if named.empty:
        return None
    counts = named.groupby("budget")["method"].nunique()
    most = counts[counts == counts.max()].index
    return min(most, key=lambda budget: (isinstance(budget, str), budget))


def type_bars(types: pd.DataFrame, kind: Literal["type", "group"], budget: Any) -> pd.DataFrame:
    """The bars for one model and one task at one budget: columns panel, method, role, accuracy, low, high, n.

    types: rows of `Summary.types`. Variants without a budget (the unpruned model among them) are in every figure.
    """
    chosen = types[(types["kind"] == kind) & ((types["budget"] == budget) | types["budget"].isna())]
    names = {"type": "panel", "ci_low": "low", "ci_high": "high", "n_samples": "n"}
    bars = with_names(chosen.dropna(subset=["accuracy"])).rename(columns=names)
    return bars[["panel", "method", "role", "accuracy", "low", "high", "n"]].reset_index(drop=True)


@house_style()
def draw_type_bars(bars: pd.DataFrame, looks: dict[str, Look], title: str = "", order: Sequence[str] = ()) -> Figure:
    """One panel per type (or group) with a bar per method and its interval; the line is the unpruned model.

    bars: of `type_bars`; order: of the panels, those not named come last.
    """
    found = list(dict.fromkeys(bars["panel"]))
    panels = [panel for panel in order if panel in found] + [panel for panel in found if panel not in order]
    names = list(dict.fromkeys(bars.loc[bars["role"] != "full", "method"])) or list(dict.fromkeys(bars["method"]))
    columns = min(MAX_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = 1.2 + 0.065 * max(map(len, names)) + 1.85 * columns
    figure = canvas(max(width, 4.5), 0.7 + rows * (0.62 + 0.19 * len(names)))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, bars[bars["panel"] == panel], names, looks, panel)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
        axes.tick_params(labelbottom=True)
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.4, -0.6)
    grid[0, 0].set_xlim(0, 1.03)
    figure.supxlabel("accuracy; the line is the unpruned model", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def _panel(axes: Axes, bars: pd.DataFrame, names: list[str], looks: dict[str, Look], panel: str) -> None:
    for row in bars.itertuples():
        if row.role == "full":
            axes.axvspan(row.low, row.high, color=REFERENCE, alpha=0.12, linewidth=0)
            axes.axvline(row.accuracy, color=REFERENCE, linewidth=1.2)
        if row.method not in names:
            continue
        look = looks[row.method]
        errors = np.nan_to_num(np.abs([[row.accuracy - row.low], [row.high - row.accuracy]]))
        axes.barh(
            names.index(row.method),
            row.accuracy,
            height=0.72,
            color=look.color if look.filled else "white",
            edgecolor=look.color,
            linestyle=look.line if look.line != ":" else "-",
            alpha=0.85,
            xerr=errors,
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "black"},
        )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    percent(axes, "x")
    axes.set_xticks([0, 0.5, 1])
    axes.set_title(f"{panel} (n={int(bars['n'].max())})", fontsize=8.5)
