"""Accuracy against what is left of the cost: the trade-off that a pruning method makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform
from numpy.typing import NDArray

from vtprune.study.figures.methods import with_names
from vtprune.study.figures.style import REFERENCE, Look, canvas, house_style, legend_below, percent

Cost = Literal["mean", "input", "kv", "flops"]


@dataclass(frozen=True)
class Quantity:
    """column: of `Summary.accuracy`, a share of the unpruned model's. words: what it is, for captions."""

    column: str
    words: str


COSTS: Final[dict[Cost, Quantity]] = {
    "mean": Quantity("retained_mean", "vision tokens kept, mean over decoder layers"),
    "input": Quantity("retained_input", "vision tokens entering the language model"),
    "kv": Quantity("retained_kv_bytes", "KV cache after the prompt, bytes"),
    "flops": Quantity("retained_flops", "FLOPs of encoder, prefill and decoding"),
}
_APART = 5.5
"""Between two methods' markers, at least, in points: the size of one."""
_SHIFTS = tuple(slot * _APART for slot in (0, 1, -1, 2, -2))
"""How far a method may be moved, in points, in the order of preference."""
_LOG_FROM = 4.0
"""Spread of x (largest by smallest) from which the axis is logarithmic."""


def curve_points(accuracy: pd.DataFrame, cost: Cost = "mean") -> pd.DataFrame:
    """The points of the figure for one model and one task: columns method, variant, role, x, y, low, high, front.

    accuracy: rows of `Summary.accuracy` of that model and task. A row without an accuracy or a cost has no point.
    front: no other point of a recipe or a baseline has at most its cost and at least its accuracy, one of them better;
    the unpruned model and controls are not on the front.
    """
    named = with_names(accuracy)
    named = named.rename(columns={COSTS[cost].column: "x", "accuracy": "y", "ci_low": "low", "ci_high": "high"})
    named = named[["method", "variant", "role", "x", "y", "low", "high"]].dropna(subset=["x", "y"])
    named = named.astype({"x": float, "y": float, "low": float, "high": float})
    entrants = named["role"].isin(["recipe", "baseline"]).to_numpy(bool)
    front = np.zeros(len(named), bool)
    front[entrants] = pareto(named["x"].to_numpy()[entrants], named["y"].to_numpy()[entrants])
    return named.assign(front=front).reset_index(drop=True)


def pareto(cost: NDArray[np.float64], gain: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool ``[point]``: no other point costs no more and gains no less, one of them strictly."""
    no_worse = (cost[None] <= cost[:, None]) & (gain[None] >= gain[:, None])
    better = (cost[None] < cost[:, None]) | (gain[None] > gain[:, None])
    dominated: NDArray[np.bool_] = np.asarray((no_worse & better).any(axis=1))
    return ~dominated


@house_style()
def draw_curves(points: pd.DataFrame, looks: dict[str, Look], cost: Cost = "mean", title: str = "") -> Figure:
    """One line per method with intervals, the unpruned model as a level line with its interval, front points ringed.

    points: of `curve_points`. A method whose points would hide another's is moved to the side, all of it alike.
    """
    figure = canvas(6.6, 4.2)
    axes = figure.subplots()
    full = points[points["role"] == "full"]
    for row in full.itertuples():
        axes.axhspan(row.low, row.high, color=REFERENCE, alpha=0.12, linewidth=0)
        axes.axhline(row.y, color=REFERENCE, linewidth=1.2, label=_full_name(row.method))
    drawn: dict[str, ErrorbarContainer] = {}
    for method, line in points[points["role"] != "full"].groupby("method", sort=False):
        look = looks[str(method)]
        line = line.sort_values("x", kind="stable")
        errors = np.abs(line[["low", "high"]].to_numpy().T - line["y"].to_numpy())
        drawn[str(method)] = axes.errorbar(
            line["x"],
            line["y"],
            yerr=np.nan_to_num(errors),
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            markerfacecolor=look.face,
            markersize=5.5,
            linewidth=1.4,
            ecolor=(look.color, 0.5),
            elinewidth=1.0,
            capsize=2,
            label=str(method),
        )
    _cost_axis(axes, points.loc[points["role"] != "full", "x"].to_numpy())
    percent(axes, "y")
    shifts = _move_apart(axes, drawn)
    front = points[points["front"]].sort_values("x", kind="stable")
    if len(front) > 1:
        ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.0, "alpha": 0.8}
        for row in front.itertuples():
            place = shifts[str(row.method)]
            axes.plot(row.x, row.y, "o", color="black", label="Pareto front", zorder=1.5, transform=place, **ring)
    axes.set_xlabel(f"{COSTS[cost].words} (share of the unpruned model's)")
    axes.set_ylabel("accuracy")
    axes.set_title(title)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [*dict.fromkeys(points.loc[points["role"] != "full", "method"]), *named]
    legend_below(figure, {name: named[name] for name in order})
    return figure


def _move_apart(axes: Axes, drawn: Mapping[str, ErrorbarContainer]) -> dict[str, Transform]:
    """Move each method that would hide an earlier one's points to the side, by one of `_SHIFTS`: the first that is far
    enough, or else the farthest. Returns where each is."""
    axes.autoscale_view()
    figure = axes.get_figure(root=True)
    assert figure is not None
    taken, places = np.zeros((0, 2)), {}
    for method, container in drawn.items():
        data = np.asarray(container.lines[0].get_xydata())
        own = axes.transData.transform(data) * 72 / figure.dpi
        moved = {shift: own + np.array([shift, 0.0]) for shift in _SHIFTS}
        far = {shift: min(0.95 * _APART, _nearest(points, taken)) for shift, points in moved.items()}
        shift = max(_SHIFTS, key=far.__getitem__)
        taken = np.concatenate([taken, moved[shift]])
        places[method] = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
        for artist in (container.lines[0], *container.lines[1], *container.lines[2]):
            artist.set_transform(places[method])
    return places


def _nearest(own: NDArray[np.float64], taken: NDArray[np.float64]) -> float:
    """The least distance between two sets of points, ``[point, 2]`` each."""
    return float(np.linalg.norm(own[:, None] - taken[None], axis=2).min(initial=np.inf))


def _full_name(method: str) -> str:
    return method if method == "unpruned" else f"{method} (unpruned)"


def _cost_axis(axes: Axes, x: NDArray[np.float64]) -> None:
    percent(axes, "x")
    positive = x[x > 0]
    if len(positive) == len(x) and len(x) and positive.max() / positive.min() >= _LOG_FROM:
        axes.set_xscale("log", base=2)
        low = int(np.floor(np.log2(positive.min()) + 1e-9))
        high = int(np.ceil(np.log2(positive.max()) - 1e-9))
        axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(low, high + 1)]))
        axes.xaxis.set_minor_locator(NullLocator())
        percent(axes, "x")


def most_telling(accuracy: pd.DataFrame, most: int = 14) -> list[str]:
    """Names of the methods to draw when there are more than ``most``: unpruned models and baselines, then recipes and
    their controls, first those on the Pareto front, then by accuracy.

    accuracy: as in `curve_points`. Methods without an accuracy are not named.
    """
    points = curve_points(accuracy)
    means = points.groupby("method", sort=False).agg(role=("role", "first"), y=("y", "mean"), front=("front", "any"))
    always = means["role"].isin(["full", "baseline"])
    rest = means[~always].sort_values(["front", "y"], ascending=False, kind="stable")
    chosen = {*means.index[always], *rest.index[: max(0, most - int(always.sum()))]}
    return [str(method) for method in means.index if method in chosen]
