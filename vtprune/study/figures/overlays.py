"""What each method kept of an image: the picture with its dropped tokens dimmed, and the answer that was given."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from vtprune.core.layout import Segment
from vtprune.core.task import Sample, Task
from vtprune.overlay import Fit, tile
from vtprune.study.figures.methods import with_names
from vtprune.study.figures.style import canvas, house_style

Grid = tuple[int, int, int]
_SIDE = 192


@dataclass(frozen=True)
class Panel:
    """One sample under one variant. pictures: one per image (or frame of a video), tokens that were dropped dimmed."""

    variant: str
    pictures: tuple[Image.Image, ...]
    kept: int
    total: int
    answer: str
    score: float


@dataclass(frozen=True)
class Overlay:
    """One sample under every variant that recorded what it kept."""

    sample: str
    question: str
    references: tuple[str, ...]
    panels: tuple[Panel, ...]


def overlays(
    task: Task,
    cells: pd.DataFrame,
    samples: pd.DataFrame,
    most: int = 4,
    fit: Fit = "crop",
) -> tuple[list[Overlay], list[str]]:
    """Overlays of the first ``most`` samples whose kept tokens are known, and a sentence for each that has no picture.

    cells: rows of `Results.cells` of one model and one task, their variants in the order of the panels; samples: of
    `Results.samples`, whose column ``grids`` says where tokens lie. fit: how the model sees an image that is not of its
    grid's shape, as in `vtprune.overlay`.
    """
    rows = samples[samples["cell"].isin(cells.index) & samples["kept"].notna()]
    wanted = rows.sort_values("index", kind="stable")["sample"].drop_duplicates().head(most)
    drawn, notes = [], []
    last = int(rows.loc[rows["sample"].isin(wanted), "index"].max()) if len(wanted) else -1
    given = {sample.id: sample for sample in islice(task.samples(), last + 1)}
    named = with_names(cells)["variant"].drop_duplicates()
    for identifier in wanted:
        if identifier not in given:
            notes.append(f"Sample {identifier}: the task no longer has it, so its image cannot be drawn.")
            continue
        sample = given[identifier]
        panels = []
        for cell, variant in named.items():
            found = rows[(rows["cell"] == cell) & (rows["sample"] == identifier)]
            if found.empty:
                continue
            row = found.iloc[0]
            total = int(row["vision_tokens"])
            shape, fault = _grids(row["grids"], sample, total)
            if fault:
                notes.append(f"Sample {identifier}, {variant}: {fault}, so what was kept has no place in the picture.")
                continue
            pictures = tuple(_pictures(sample, shape, set(map(int, row["kept"])), fit))
            answer, score = str(row["answer"]), float(row["score"])
            panels.append(Panel(str(variant), pictures, len(row["kept"]), total, answer, score))
        if panels:
            drawn.append(Overlay(str(identifier), sample.text, sample.references, tuple(panels)))
    return drawn, notes


def _grids(recorded: Any, sample: Sample, total: int) -> tuple[list[Grid], str]:
    """The grids of a row of results, and what keeps them from being drawn on this sample, if anything does."""
    if not isinstance(recorded, Sequence | np.ndarray):
        return [], f"the grid of its {total} vision tokens is not known"
    grids = [(int(frames), int(rows), int(columns)) for frames, rows, columns in recorded]
    if len(grids) != len(sample.visuals) or sum(map(math.prod, grids)) != total:
        listed = ", ".join(" x ".join(map(str, grid)) for grid in grids)
        return [], f"grids {listed} do not fit {total} vision tokens of {len(sample.visuals)} visuals"
    return grids, ""


def _pictures(sample: Sample, grids: Sequence[Grid], kept: set[int], fit: Fit) -> Iterable[Image.Image]:
    start = 0
    for index, (visual, grid) in enumerate(zip(sample.visuals, grids, strict=True)):
        segment = Segment(index, start, start + math.prod(grid), grid)
        for frame in range(grid[0]):
            image = visual if isinstance(visual, Image.Image) else visual.frames[frame * len(visual.frames) // grid[0]]
            yield tile(image, segment, frame, kept, _SIDE, fit)[0]
        start = segment.stop


@house_style()
def draw_overlay(overlay: Overlay, columns: int = 4) -> Figure:
    """One panel per variant: name, what was kept, the answer and its score; the question on top."""
    wide = max(2.0, 1.4 * max(len(panel.pictures) for panel in overlay.panels))
    columns = max(1, min(columns, len(overlay.panels), int(9 / wide)))
    rows = -(-len(overlay.panels) // columns)
    strips = [_strip(panel.pictures) for panel in overlay.panels]
    aspect = max(strip.shape[0] / strip.shape[1] for strip in strips)
    wide = max(2.0, 1.4 * max(len(panel.pictures) for panel in overlay.panels))
    figure = canvas(max(4.2, wide * columns), 0.35 + rows * (wide * min(aspect, 2.0) + 0.68))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel, strip in zip(grid.flat, overlay.panels, strips, strict=False):
        axes.imshow(strip, interpolation="nearest")
        axes.set_title(_wrapped(panel.variant, int(13 * wide)), fontsize=8.5)
        mark = "right" if panel.score == 1 else "wrong" if panel.score == 0 else f"score {panel.score:.2f}"
        answer = _wrapped(_short(panel.answer, 40), int(13 * wide))
        axes.set_xlabel(f"{panel.kept} of {panel.total} tokens\n“{answer}” ({mark})", fontsize=8)
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes in grid.flat[len(overlay.panels) :]:
        axes.set_visible(False)
    question = f"{_short(overlay.question, 160)} ({' / '.join(_short(text, 40) for text in overlay.references[:3])})"
    figure.suptitle(_wrapped(question, int(13 * figure.get_figwidth())), fontsize=9.5)
    return figure


def _strip(pictures: Sequence[Image.Image]) -> np.ndarray:
    """uint8 ``[row, column, 3]``: the pictures from left to right, at most four in a row."""
    across = min(4, len(pictures))
    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    gap = 8 if len(pictures) > 1 else 0
    down = -(-len(pictures) // across)
    strip = Image.new("RGB", (across * (width + gap) - gap, down * (height + gap) - gap), "white")
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place % across * (width + gap), place // across * (height + gap)))
    return np.asarray(strip)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or " "
