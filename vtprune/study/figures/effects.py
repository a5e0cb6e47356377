"""Attribution as pictures: what each level of each factor brings, and where pairs do better than their sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from vtprune.study.figures.style import MARKERS, PALETTE, canvas, house_style

DIVERGING = "PuOr"
_WRITE_UP_TO = 12


def interaction_matrix(pair: pd.DataFrame) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Levels of factor a, levels of factor b and the effects, ``[level_a, level_b]``, NaN where no cell has the pair.

    pair: rows of `Attribution.interactions` of one pair of factors.
    """
    rows, columns = list(dict.fromkeys(pair["level_a"])), list(dict.fromkeys(pair["level_b"]))
    values = np.full((len(rows), len(columns)), np.nan)
    for row in pair.itertuples():
        values[rows.index(row.level_a), columns.index(row.level_b)] = row.effect
    return rows, columns, values


@house_style()
def draw_effects(effects: pd.DataFrame, title: str = "") -> Figure:
    """A dot with its interval per level, factor by factor; zero is the mean over the factor's levels.

    effects: rows of `Attribution.effects` of one model and one task.
    """
    factors = list(dict.fromkeys(effects["factor"]))
    heights = [int((effects["factor"] == factor).sum()) + 1.2 for factor in factors]
    longest = max(map(len, effects["level"].astype(str)), default=1)
    figure = canvas(max(6.2, 3.8 + 0.065 * longest), 0.9 + 0.24 * sum(heights))
    grid = figure.subplots(len(factors), 1, sharex=True, squeeze=False, height_ratios=heights)
    for place, (axes, factor) in enumerate(zip(grid[:, 0], factors, strict=True)):
        part = effects[effects["factor"] == factor]
        low, high = part["effect"] - part["ci_low"], part["ci_high"] - part["effect"]
        axes.errorbar(
            part["effect"],
            range(len(part)),
            xerr=np.nan_to_num(np.abs([low, high])),
            fmt=MARKERS[place % len(MARKERS)],
            color=PALETTE[place % len(PALETTE)],
            markersize=5,
            elinewidth=1.2,
            capsize=2.5,
        )
        axes.axvline(0, color="#444444", linewidth=0.8)
        axes.set_yticks(range(len(part)), [str(level) for level in part["level"]])
        axes.set_ylim(len(part) - 0.4, -0.6)
        axes.set_title(factor, loc="left", fontsize=9, fontweight="bold")
        axes.xaxis.set_major_formatter(FuncFormatter(_points))
    figure.supxlabel("accuracy gained over the factor's mean level (percentage points)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


@house_style()
def draw_interaction(pair: pd.DataFrame, title: str = "") -> Figure:
    """A heat map of one pair of factors, the one with the longer names down the side; grey where no cell has the pair.

    pair: rows of `Attribution.interactions` of one pair of factors.
    """
    rows, columns, values = interaction_matrix(pair)
    across, down = str(pair["factor_b"].iloc[0]), str(pair["factor_a"].iloc[0])
    if max(map(len, columns)) > max(map(len, rows)):
        rows, columns, values, across, down = columns, rows, values.T, down, across
    widest, longest = max(map(len, rows)), max(map(len, columns))
    figure = canvas(max(4.8, 2.2 + 0.065 * widest + 0.42 * len(columns)), 1.7 + 0.04 * longest + 0.3 * len(rows))
    axes = figure.subplots()
    limit = max(float(np.nanmax(np.abs(values), initial=0.0)), 0.01)
    axes.set_facecolor("#bbbbbb")
    picture = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.set_yticks(range(len(rows)), rows)
    tilted: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if longest > 6 else {}
    axes.set_xticks(range(len(columns)), columns, **tilted)
    axes.set_ylabel(down)
    axes.set_xlabel(across)
    axes.set_title(title)
    if len(columns) <= _WRITE_UP_TO:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "white" if abs(value) > 0.6 * limit else "black"
                axes.text(column, row, f"{100 * value:+.1f}", ha="center", va="center", color=ink, fontsize=7)
    bar = figure.colorbar(picture, ax=axes, format=FuncFormatter(_points), pad=0.02, fraction=0.05)
    bar.set_label("points")
    return figure


def _points(share: float, _: object = None) -> str:
    return f"{100 * share:+.3g}" if share else "0"
