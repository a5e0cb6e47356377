"""Where the time of a sample goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vtprune.study.figures.methods import variants, with_names
from vtprune.study.figures.style import canvas, house_style, legend_below

PARTS = {
    "prepare": ("processor and transfer", "#999999", ""),
    "model": ("model (generate without pruning stages)", "#56B4E9", ""),
    "stages": ("pruning stages", "#D55E00", "///"),
}
"""Column of `time_parts` to its words, colour and hatching."""


def time_parts(cells: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Seconds per sample, mean over every chunk of a variant: index variant, columns ``prepare, model, stages``.

    cells: rows of `Results.cells` of one model and one task; times: of `Results.times`. Without times, no row.
    """
    timed = times[times["cell"].isin(cells.index)].copy()
    timed["variant"] = timed["cell"].map(with_names(cells)["variant"])
    timed["stages"] = [float(np.sum(stages)) if stages is not None else 0.0 for stages in timed["stages"]]
    timed["model"] = timed["generate"] - timed["stages"]
    totals = timed.groupby("variant", sort=False)[["samples", *PARTS]].sum()
    order = [name for name in variants(cells) if name in totals.index]
    return totals[list(PARTS)].div(totals["samples"], axis=0).loc[order].astype(float)


def devices(cells: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """What ran these cells, by name."""
    return sorted({str(device) for device in times.loc[times["cell"].isin(cells.index), "device"]})


@house_style()
def draw_times(parts: pd.DataFrame, title: str = "") -> Figure:
    """A stacked bar per variant, in seconds per sample.

    parts: of `time_parts`.
    """
    figure = canvas(max(6.2, 4.2 + 0.06 * max(map(len, parts.index))), 1.0 + 0.26 * len(parts))
    axes = figure.subplots()
    largest = float(parts.sum(axis=1).max())
    factor, unit = (1000, "milliseconds") if largest < 1 else (1, "seconds")
    left = np.zeros(len(parts))
    for column, (words, color, hatch) in PARTS.items():
        values = parts[column].to_numpy() * factor
        axes.barh(range(len(parts)), values, 0.7, left, color=color, hatch=hatch, edgecolor="white", label=words)
        left += values
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.3g}", va="center", fontsize=7.5)
    axes.set_yticks(range(len(parts)), list(parts.index))
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{unit} per sample")
    axes.set_title(title)
    handles, labels = axes.get_legend_handles_labels()
    legend_below(figure, dict(zip(labels, handles, strict=True)))
    return figure
