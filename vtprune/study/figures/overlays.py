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
from vtprune.overlay import tile
from vtprune.study.figures.methods import with_names
from vtprune.study.figures.style import canvas, house_style

Grid = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""As in `vtprune.study.regions`, which imports torch."""
_SIDE = 192


@dataclass(frozen=True)
class Panel:
    """One sample under one variant. pictures: one per image (or frame of a video), tokens that were dropped dimmed.
    share: of the (layer, KV head) pairs that keep a token, mean over tokens, where they differ; the pictures then dim
    each token as much as it is missing from them."""

    variant: str
    pictures: tuple[Image.Image, ...]
    kept: int
    total: int
    answer: str
    score: float
    share: float | None = None


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
) -> tuple[list[Overlay], list[str]]:
    """Overlays of the first ``most`` samples whose kept tokens are known, and a sentence for each that has no picture.

    cells: rows of `Results.cells` of one model and one task, their variants in the order of the panels; samples: of
    `Results.samples`, whose columns ``grids`` and ``crops`` say where tokens lie, and in which part of a visual. Rows
    that have no crops, as those of earlier versions, are drawn as if the model saw all of it, which a sentence says.
    """
    rows = samples[samples["cell"].isin(cells.index) & samples["kept"].notna()]
    wanted = rows.sort_values("index", kind="stable")["sample"].drop_duplicates().head(most)
    drawn, notes, assumed = [], [], []
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
            seen = _crops(row["crops"], len(shape))
            if len(seen) != len(shape):
                notes.append(f"Sample {identifier}, {variant}: crops of {len(seen)} visuals do not fit {len(shape)}.")
                continue
            assumed += [str(identifier)] if not _is_listed(row["crops"]) else []
            shares = _shares(row, total)
            pictures = tuple(_pictures(sample, shape, seen, set(map(int, row["kept"])), shares))
            answer, score = str(row["answer"]), float(row["score"])
            mean = None if shares is None else float(shares.mean())
            panels.append(Panel(str(variant), pictures, len(row["kept"]), total, answer, score, mean))
        if panels:
            drawn.append(Overlay(str(identifier), sample.text, sample.references, tuple(panels)))
    if assumed:
        notes.append(
            f"Samples {', '.join(dict.fromkeys(assumed))}: the results do not say which part of a picture the model "
            f"saw (they are of an earlier version of vtprune), so it is drawn as if it saw all of it."
        )
    return drawn, notes


def _grids(recorded: Any, sample: Sample, total: int) -> tuple[list[Grid], str]:
    """The grids of a row of results, and what keeps them from being drawn on this sample, if anything does."""
    if not _is_listed(recorded):
        return [], f"the grid of its {total} vision tokens is not known"
    grids = [(int(frames), int(rows), int(columns)) for frames, rows, columns in recorded]
    if len(grids) != len(sample.visuals) or sum(map(math.prod, grids)) != total:
        listed = ", ".join(" x ".join(map(str, grid)) for grid in grids)
        return [], f"grids {listed} do not fit {total} vision tokens of {len(sample.visuals)} visuals"
    return grids, ""


def _crops(recorded: Any, visuals: int) -> list[Box]:
    """The crops of a row of results; all of each visual where it has none."""
    if not _is_listed(recorded):
        return [(0.0, 0.0, 1.0, 1.0)] * visuals
    return [(float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in recorded]


def _is_listed(recorded: Any) -> bool:
    """Whether a row has a value in a column of lists: an absent one is None or, in a frame, NaN."""
    return isinstance(recorded, Sequence | np.ndarray)


def _shares(row: pd.Series, total: int) -> np.ndarray | None:
    """Of each vision token, the share of (layer, KV head) pairs that keep it; None of rows that have none."""
    recorded = row.get("kept_share")
    return np.asarray(recorded, np.float64) if _is_listed(recorded) and len(recorded) == total else None


def _pictures(
    sample: Sample, grids: Sequence[Grid], crops: Sequence[Box], kept: set[int], shares: np.ndarray | None
) -> Iterable[Image.Image]:
    start = 0
    for index, (visual, grid, crop) in enumerate(zip(sample.visuals, grids, crops, strict=True)):
        segment = Segment(index, start, start + math.prod(grid), grid)
        for frame in range(grid[0]):
            image = visual if isinstance(visual, Image.Image) else visual.frames[frame * len(visual.frames) // grid[0]]
            seen = _seen(image, crop)
            if shares is None:
                yield tile(seen, segment, frame, kept, _SIDE, "stretch")[0]
            else:
                yield _shaded(seen, segment, frame, shares)
        start = segment.stop


def _shaded(image: Image.Image, segment: Segment, frame: int, shares: np.ndarray) -> Image.Image:
    """One frame of one image, each token between dropped (dark) and kept (in colour) by its share."""
    assert segment.grid is not None
    _, rows, columns = segment.grid
    first = segment.start + frame * rows * columns
    clear, dark = (
        tile(image, segment, frame, kept, _SIDE, "stretch")[0] for kept in (set(range(first, segment.stop)), set())
    )
    lit = np.rint(255 * shares[first : first + rows * columns].reshape(rows, columns)).astype(np.uint8)
    return Image.composite(clear, dark, Image.fromarray(lit).resize(clear.size, Image.Resampling.NEAREST))


def _seen(image: Image.Image, crop: Box) -> Image.Image:
    """The part of an image in a crop, to the nearest pixel; black where the crop reaches beyond it."""
    left, top, right, bottom = (round(share * side) for share, side in zip(crop, image.size * 2, strict=True))
    return image.convert("RGB").crop((left, top, max(right, left + 1), max(bottom, top + 1)))


@house_style()
def draw_overlay(overlay: Overlay, columns: int = 4) -> Figure:
    """One panel per variant: name, what was kept, the answer and its score; the question on top."""
    wide = max(2.0, 1.4 * max(len(panel.pictures) for panel in overlay.panels))
    columns = max(1, min(columns, len(overlay.panels), int(9 / wide)))
    rows = -(-len(overlay.panels) // columns)
    strips = [_strip(panel.pictures) for panel in overlay.panels]
    aspect = max(strip.shape[0] / strip.shape[1] for strip in strips)
    figure = canvas(max(4.2, wide * columns), 0.35 + rows * (wide * min(aspect, 2.0) + 0.68))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel, strip in zip(grid.flat, overlay.panels, strips, strict=False):
        axes.imshow(strip, interpolation="nearest")
        axes.set_title(_wrapped(panel.variant, int(13 * wide)), fontsize=8.5)
        mark = "right" if panel.score == 1 else "wrong" if panel.score == 0 else f"score {panel.score:.2f}"
        answer = _wrapped(_short(panel.answer, 40), int(13 * wide))
        kept = (
            f"{panel.kept} of {panel.total} tokens"
            if panel.share is None
            else f"{100 * panel.share:.0f} % of the cache"
        )
        axes.set_xlabel(f"{kept}\n“{answer}” ({mark})", fontsize=8)
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
