"""How many vision tokens each layer, and each KV head of it, has left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from vtprune.study.figures.methods import variants, with_names
from vtprune.study.figures.style import HEAT, canvas, house_style

Array = NDArray[np.float64]
_WRITE_UP_TO = 14
"""Columns up to which each cell of a heat map has its number written in."""


@dataclass(frozen=True)
class Retention:
    """Shares of the vision tokens in the unpruned model's prompt that are left, mean over samples (and seeds).

    names: of the variants. values: ``[variant, layer]``, or ``[variant, layer, kv_head]``.
    """

    names: tuple[str, ...]
    values: Array


def layer_retention(cells: pd.DataFrame, samples: pd.DataFrame) -> Retention:
    """Of the vision tokens in the unpruned prompt, the share that enters each decoder layer: ``[variant, layer]``.

    cells: rows of `Results.cells` of one model and one task; samples: of `Results.samples`. Without the unpruned
    model's samples, shares are of the variant's own prompt. A variant that pruned nothing or has no samples has no row,
    but a smaller image has one: all layers read what is left of it.
    """
    smaller = samples["cell"].isin(cells.index[cells["downsample"].notna()]) & samples["tokens_by_layer"].isna()
    known = samples.loc[samples["tokens_by_layer"].notna(), "tokens_by_layer"]
    if smaller.any() and len(known):
        depth = len(known.iloc[0])
        even = [
            [tokens] * depth if alike else layers
            for tokens, alike, layers in zip(samples["input_tokens"], smaller, samples["tokens_by_layer"], strict=True)
        ]
        samples = samples.assign(tokens_by_layer=pd.Series(even, index=samples.index, dtype=object))
    return _retention(cells, samples, "tokens_by_layer")


def head_retention(cells: pd.DataFrame, samples: pd.DataFrame) -> Retention:
    """Of the vision tokens in the unpruned prompt, the share that each KV head stores: ``[variant, layer, kv_head]``.

    Of those variants only that evict from the cache: where some head stores fewer tokens than entered its layer.
    """
    evicts = [_evicts(*pair) for pair in zip(samples["tokens_by_layer"], samples["kv_by_head"], strict=True)]
    evicting = set(samples.loc[np.asarray(evicts, bool), "cell"])
    return _retention(cells[cells.index.isin(evicting)], samples, "kv_by_head")


def _retention(cells: pd.DataFrame, samples: pd.DataFrame, column: str) -> Retention:
    counted = samples[samples[column].notna() & samples["cell"].isin(cells.index)]
    full = samples[samples["cell"].isin(cells.index[cells["role"] == "full"])]
    unpruned = full.drop_duplicates("sample").set_index("sample")["vision_tokens"]
    totals = counted["sample"].map(unpruned).fillna(counted["vision_tokens"])
    counted = counted.assign(total=totals)[totals > 0]
    named = with_names(cells)["variant"]
    names, rows = [], []
    for variant in variants(cells):
        part = counted[counted["cell"].isin(named.index[named == variant])]
        if len(part):
            shares = [_matrix(value) / total for value, total in zip(part[column], part["total"], strict=True)]
            names.append(variant)
            rows.append(np.mean(shares, axis=0))
    return Retention(tuple(names), np.stack(rows) if rows else np.zeros((0, 0)))


def _matrix(value: object) -> Array:
    """A list, or a list of lists, as Parquet or JSON gives it back: float64 ``[layer]`` or ``[layer, kv_head]``."""
    return np.array([np.asarray(row, np.float64) for row in value])  # type: ignore[attr-defined]


def _evicts(by_layer: object, by_head: object) -> bool:
    if not (hasattr(by_layer, "__len__") and hasattr(by_head, "__len__")):
        return False
    return bool((_matrix(by_head) < _matrix(by_layer)[:, None]).any())


@house_style()
def draw_layer_retention(retention: Retention, title: str = "") -> Figure:
    """A row per variant, a column per decoder layer; with few layers the percentages are written in the cells."""
    return _heat(retention.names, retention.values, title, heads=1)


@house_style()
def draw_head_retention(retention: Retention, title: str = "") -> Figure:
    """A row per variant; a block of columns per decoder layer, in it one column per KV head."""
    variants, layers, heads = retention.values.shape
    return _heat(retention.names, retention.values.reshape(variants, layers * heads), title, heads)


def _heat(names: tuple[str, ...], values: Array, title: str, heads: int) -> Figure:
    rows, columns = values.shape
    figure = canvas(min(14.0, max(6.6, 2.4 + 0.055 * max(map(len, names)) + 0.13 * columns)), 1.5 + 0.24 * rows)
    axes = figure.subplots()
    picture = axes.imshow(values, cmap=HEAT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.set_yticks(range(rows), names)
    axes.set_title(title)
    layers = columns // heads
    step = max(1, -(-layers // 16))
    axes.set_xticks(
        [(layer + 0.5) * heads - 0.5 for layer in range(0, layers, step)],
        [str(layer) for layer in range(0, layers, step)],
    )
    axes.set_xlabel("decoder layer" if heads == 1 else f"decoder layer, {heads} KV heads each")
    for layer in range(1, layers):
        axes.axvline(layer * heads - 0.5, color="white", linewidth=1.2 if heads > 1 else 0.4)
    if columns <= _WRITE_UP_TO:
        _write(axes, values)
    bar = figure.colorbar(picture, ax=axes, format=PercentFormatter(xmax=1), pad=0.02, fraction=0.05)
    bar.set_label("vision tokens left" if heads == 1 else "vision tokens cached")
    return figure


def _write(axes: Axes, values: Array) -> None:
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if value > 0.55 else "white"
        text = f"{100 * value:.0f}" if value >= 0.1 or value == 0 else f"{100 * value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
