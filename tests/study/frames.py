"""Results-like objects with made-up answers, for tests of statistics, figures and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from vtprune.study.rows import SAMPLE_COLUMNS, TIME_COLUMNS

FULL_TOKENS = 100
Probability = Callable[[str, Mapping[str, Any], str], float]
CELL_COLUMNS = (
    "name", "label", "role", "of", "model", "task", "axes", "downsample", "status", "error", "limit"
)  # fmt: skip


@dataclass
class FakeResults:
    """The attributes of `vtprune.study.results.Results`."""

    cells: pd.DataFrame
    samples: pd.DataFrame
    times: pd.DataFrame
    study: dict[str, Any] = field(default_factory=lambda: {"name": "made-up"})
    groups: dict[str, dict[str, list[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class FakeCell:
    """scores: by sample id. retained: share of vision tokens kept, after downsampling; status: of the cell."""

    label: str
    scores: Mapping[str, float]
    role: str = "recipe"
    axes: Mapping[str, Any] = field(default_factory=dict)
    retained: float = 1.0
    downsample: float | None = None
    of: str | None = None
    status: str = "done"
    error: str | None = None
    model: str = "mini"
    task: str = "made-up"

    @property
    def id(self) -> str:
        return f"{self.model}/{self.task}/{self.label}/{dict(self.axes)}"


def fake_results(
    cells: Sequence[FakeCell],
    groups: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    type_groups: dict[str, dict[str, list[str]]] | None = None,
    limit: int | None = None,
) -> FakeResults:
    """groups, types: by sample id; a sample without stands alone and is of type ``all``. type_groups: by task."""
    rows, times, table = [], [], []
    for cell in cells:
        axes = " ".join(f"{axis}={value}" for axis, value in cell.axes.items())
        entry = [f"{cell.label} {axes}".strip(), cell.label, cell.role, cell.of, cell.model, cell.task, dict(cell.axes)]
        table.append([*entry, cell.downsample, cell.status, cell.error, limit])
        for index, (sample, score) in enumerate(cell.scores.items()):
            rows.append(_row(cell, index, sample, score, groups or {}, types or {}))
        if cell.scores:
            n = len(cell.scores)
            times.append([cell.id, 0, n, 0.1 * n, 0.4 * n, [0.01], "cpu", "float32"])
    return FakeResults(
        pd.DataFrame(table, columns=list(CELL_COLUMNS), index=pd.Index([cell.id for cell in cells], name="id")),
        pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS)),
        pd.DataFrame(times, columns=list(TIME_COLUMNS)),
        groups=type_groups or {},
    )


def _row(
    cell: FakeCell, index: int, sample: str, score: float, groups: Mapping[str, str], types: Mapping[str, str]
) -> dict[str, Any]:
    vision = FULL_TOKENS * (1.0 if cell.downsample is None else cell.downsample)
    kept = vision * cell.retained
    return {
        "cell": cell.id,
        "index": index,
        "sample": sample,
        "type": types.get(sample, "all"),
        "group": groups.get(sample, ""),
        "answer": "yes" if score == 1 else "no",
        "references": ["yes"],
        "score": float(score),
        "prompt_tokens": int(vision) + 20,
        "vision_tokens": int(vision),
        "input_tokens": int(kept),
        "mean_tokens": kept,
        "mean_kv_tokens": kept,
        "kv_bytes": int(kept + 20) * 8,
        "kv_bytes_full": int(vision + 20) * 8,
        "flops": int(kept + 20) * 1000,
        "flops_full": int(vision + 20) * 1000,
        "new_tokens": 2,
        "tokens_by_layer": [int(kept)] * 4,
        "kv_by_head": [[int(kept)] * 2] * 4,
        "kept": None,
        "kept_share": None,
        "grids": None,
        "crops": None,
    }


def scores_of(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Scores by sample id ``q000``, ``q001``, ..."""
    return {f"q{i:03d}": float(value) for i, value in enumerate(values)}


def demo_results(
    n: int = 120, seeds: int = 1, per_image: int = 4, budgets: Sequence[float] = (0.1, 0.25, 0.5), seed: int = 0
) -> FakeResults:
    """A small study: the unpruned model, two recipes, a random baseline and downsampled images over budgets.

    Questions of one image share part of their difficulty. ``good`` is better than ``plain``, and both than ``random``.
    """
    rng = np.random.default_rng(seed)
    ids = [f"q{i:03d}" for i in range(n)]
    images = np.arange(n) // per_image
    difficulty = 0.6 * rng.random(images.max() + 1)[images] + 0.4 * rng.random(n)

    def draw(skill: float) -> dict[str, float]:
        noisy = difficulty + 0.15 * rng.standard_normal(n)
        return {sample: float(value < skill) for sample, value in zip(ids, noisy, strict=True)}

    cells = [FakeCell("unpruned", draw(0.85), role="full")]
    for budget in budgets:
        axes = {"budget": budget}
        cells.append(FakeCell("downsampled", draw(0.5 + 0.3 * budget), "baseline", axes, 1.0, downsample=budget))
        for s in range(seeds):
            axes = {"budget": budget, "seed": s}
            cells.append(FakeCell("good", draw(0.8), axes=axes, retained=budget))
            cells.append(FakeCell("plain", draw(0.6 + 0.3 * budget), axes=axes, retained=budget))
            cells.append(FakeCell("random", draw(0.3 + 0.6 * budget), "baseline", axes, budget))
            cells.append(FakeCell("good reversed", draw(0.25), "control", axes, budget, of="good"))
    types = {sample: ("count", "colour", "where")[i % 3] for i, sample in enumerate(ids)}
    groups = {sample: f"image{image}" for sample, image in zip(ids, images, strict=True)}
    return fake_results(cells, groups, types, {"made-up": {"local": ["colour", "where"], "global": ["count"]}}, limit=n)
