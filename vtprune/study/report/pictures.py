"""The figures of one model on one task: drawn, saved and captioned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vtprune.core.spec import build
from vtprune.core.task import Task
from vtprune.study.cell import Cell
from vtprune.study.figures import curves, effects, overlays, retention, style, timing, types
from vtprune.study.figures.methods import methods, variants, with_names
from vtprune.study.report.parts import Part

MAX_METHODS = 14
"""Methods drawn in one figure; the tables have all."""
MAX_ROWS = 30
"""Variants in one heat map; beyond, one budget is drawn."""
MAX_OVERLAYS = 3
GROUP_MEANS = "A group is the mean of its types, each weighing the same however few its questions (n is of all). "
TELLING = 0.005
"""Shares of a cost that differ by less are drawn as if they were equal."""


@dataclass(frozen=True)
class Picture:
    """caption: what to read off it. svg, png: its files."""

    title: str
    caption: str
    svg: Path
    png: Path


@dataclass(frozen=True)
class Draft:
    """A figure that is not saved yet; name: of its files, without the section."""

    name: str
    title: str
    caption: str
    figure: Figure


def save_pictures(drafts: Iterator[Draft], folder: Path, prefix: str) -> list[Picture]:
    """Save every figure under ``prefix-name``; a figure is drawn, written and dropped before the next."""
    saved = []
    for draft in drafts:
        stem = re.sub(r"[^\w.]+", "-", f"{prefix}-{draft.name}").strip("-")
        png, svg, _ = style.save(draft.figure, folder, stem)
        saved.append(Picture(draft.title, draft.caption, svg, png))
    return saved


def shown_methods(part: Part) -> tuple[list[str], str]:
    """Names of the methods that figures draw, and a sentence if these are not all."""
    shown, every = curves.most_telling(part.accuracy, MAX_METHODS), methods(part.accuracy)
    if len(shown) == len(every):
        return shown, ""
    return shown, (
        f"{len(shown)} of {len(every)} methods are drawn: the baselines, then those on the Pareto front and the most "
        "accurate; the tables have all."
    )


def accuracy_drafts(part: Part, notes: list[str]) -> Iterator[Draft]:
    """Accuracy against cost, then by group and by type; appends to ``notes`` what is left out."""
    shown, note = shown_methods(part)
    if not shown:
        return
    accuracy = _of_methods(part.accuracy, shown)
    looks = style.looks(methods(accuracy))
    mean, drawn = curves.curve_points(accuracy, "mean"), False
    for cost, quantity in curves.COSTS.items():
        points = curves.curve_points(accuracy, cost)
        if points.empty:
            continue
        pruned = points.loc[points["role"] != "full", "x"]
        if cost != "mean" and len(pruned) > 1 and np.ptp(pruned) < TELLING:
            notes.append(f"{part.title}: not drawn, it hardly differs between methods: {quantity.words}")
            continue
        if cost != "mean" and len(points) == len(mean) and np.allclose(points["x"], mean["x"], atol=TELLING):
            notes.append(f"{part.title}: not drawn, it equals {curves.COSTS['mean'].words}: {quantity.words}")
            continue
        figure = curves.draw_curves(points, looks, cost, part.title)
        caption = "Read as the picture above, against another cost." if drawn else _curve_caption(part, note)
        yield Draft(f"accuracy-{cost}", f"Accuracy against {quantity.words}", caption, figure)
        drawn = True
    budget = types.common_budget(_of_methods(part.types, shown))
    kinds: tuple[tuple[Literal["type", "group"], str], ...] = (
        ("group", "group of question types"),
        ("type", "question type"),
    )
    for kind, words in kinds:
        bars = types.type_bars(_of_methods(part.types, shown), kind, budget)
        if bars["panel"].nunique() < 2:
            continue
        order = [name for members in part.groups.values() for name in members] if kind == "type" else list(part.groups)
        at = "" if budget is None else f" at budget {budget}"
        caption = (
            f"Bars are accuracies{at} with {part.level} intervals, one panel per {words}; the line with its band is "
            "the unpruned model. Read off which kind of question a method loses: bars that fall behind in one panel "
            f"only. No test was made per panel. {GROUP_MEANS if kind == 'group' else ''}{note}"
        )
        figure = types.draw_type_bars(bars, looks, f"{part.title}{at}", order)
        yield Draft(f"by-{kind}", f"Accuracy by {words}{at}", caption.strip(), figure)


def _curve_caption(part: Part, note: str) -> str:
    text = (
        f"Each point is a method at one budget, with its {part.level} interval; x is what it really kept or cost, not "
        "what was asked for. The level line with its band is the unpruned model. Dashed lines with hollow marks are "
        "controls, dotted ones baselines. Methods whose points would cover another's are moved a little to the side. "
        "Circles mark the Pareto front: no other recipe or baseline has "
        "at most this cost and at least this accuracy. Overlapping intervals are not a test; the comparisons below are."
    )
    return f"{text} {note}".strip()


def retention_drafts(part: Part) -> Iterator[Draft]:
    """What layers and KV heads keep, and where the time goes."""
    shown, note = shown_methods(part)
    cells = _of_methods(part.cells, shown)
    if cells.empty:
        return
    if len(variants(cells)) > MAX_ROWS:
        cells, budget = _at_common_budget(cells, part, shown)
        note = f"Only budget {budget} is drawn. {note}".strip()
    layers = retention.layer_retention(cells, part.samples)
    if layers.names:
        caption = (
            "Vision tokens that enter each decoder layer, as a share of the unpruned prompt's, mean over samples. Read "
            "off where a method drops: what is dark before layer 0 left in or before the projector, a step to the "
            "right of it inside the language model. The unpruned model, all of it everywhere, is left out; what leaves "
            f"the cache afterwards is in another picture. {note}"
        )
        figure = retention.draw_layer_retention(layers, part.title)
        yield Draft("layers", "Vision tokens by layer", caption.strip(), figure)
    heads = retention.head_retention(cells, part.samples)
    if heads.names:
        caption = (
            "Vision tokens in the cache of each KV head after the prompt, as a share of the unpruned prompt's, for "
            "methods that evict from the cache. Within a layer, unlike neighbours are heads with budgets of their own."
        )
        yield Draft(
            "heads", "Cached vision tokens by KV head", caption, retention.draw_head_retention(heads, part.title)
        )
    parts = timing.time_parts(cells, part.times)
    if len(parts):
        device = ", ".join(timing.devices(cells, part.times))
        caption = (
            f"Wall time per sample on the machine that ran the study ({device}), mean over all batches, the first and "
            "what else the machine did included. It says what a pruning stage costs here; it is no benchmark."
        )
        yield Draft("times", "Time per sample", f"{caption} {note}".strip(), timing.draw_times(parts, part.title))


def effect_drafts(part: Part) -> Iterator[Draft]:
    """Main effects and interactions of a factorial."""
    if part.effects.empty:
        return
    caption = (
        f"How much accuracy each level brings over its factor's mean, other factors equal, with {part.level} "
        "intervals. Read off which factor spreads its levels most; an interval across zero is no effect that this "
        "study can show."
    )
    yield Draft(
        "effects", "Main effects", caption, effects.draw_effects(part.effects.dropna(subset=["effect"]), part.title)
    )
    for (one, other), pair in part.interactions.groupby(["factor_a", "factor_b"], sort=False):
        caption = (
            f"How far a pair of {one} and {other} lies above (+) or below (-) what the two main effects add up to, in "
            "percentage points. Near zero everywhere: the two can be chosen one after the other."
        )
        figure = effects.draw_interaction(pair, part.title)
        yield Draft(f"interaction-{one}-{other}", f"Interaction of {one} and {other}", caption, figure)


def overlay_drafts(part: Part, cells: dict[str, Cell], notes: list[str]) -> Iterator[Draft]:
    """What methods kept of a few samples; appends to ``notes`` a sentence for each that cannot be drawn."""
    shown, _ = shown_methods(part)
    chosen, budget = _at_common_budget(_of_methods(part.cells, shown), part, shown)
    recorded = part.samples["cell"].isin(chosen.index) & part.samples["kept"].notna()
    if not recorded.any():
        return
    try:
        task = build("task", dict(cells[chosen.index[0]].task))
        assert isinstance(task, Task)
        found, said = overlays.overlays(task, chosen, part.samples, MAX_OVERLAYS)
    except Exception as error:  # a task is anybody's code and data, and may not be here any more
        notes.append(f"{part.title}: no overlays, the task's images cannot be had: {type(error).__name__}: {error}")
        return
    notes += [f"{part.title}: {note}" for note in said]
    at = "" if budget is None else f" at budget {budget}"
    for place, overlay in enumerate(found):
        caption = (
            f"Sample {overlay.sample}{at}: in colour, the vision tokens that the last stage kept (in some layer or "
            "head); dark, those that are gone. "
        )
        if shaded := [panel for panel in overlay.panels if panel.share is not None]:
            means = ", ".join(f"{panel.variant} {100 * (panel.share or 0):.0f} %" for panel in shaded)
            caption += (
                "Where a method evicts from the cache by layer and head, a token is the brighter the more (layer, KV "
                f"head) pairs keep it; mean share of them that do: {means}. "
            )
        caption += "Under each: the answer. One sample proves nothing."
        yield Draft(f"overlay-{place}", f"What was kept of {overlay.sample}", caption, overlays.draw_overlay(overlay))


def _at_common_budget(cells: pd.DataFrame, part: Part, shown: list[str]) -> tuple[pd.DataFrame, Any]:
    """The cells at the budget that most of the methods have, and those without a budget."""
    budget = types.common_budget(_of_methods(part.accuracy, shown))
    rows = with_names(part.accuracy)
    names = rows.loc[(rows["budget"] == budget) | rows["budget"].isna(), "variant"]
    return cells[with_names(cells)["variant"].isin(names)], budget


def _of_methods(frame: pd.DataFrame, shown: list[str]) -> pd.DataFrame:
    return frame[with_names(frame)["method"].isin(shown)]
