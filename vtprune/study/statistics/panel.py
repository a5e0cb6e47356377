"""Results as arrays: for one model on one task, the score of each sample under each variant.

A variant's cells differ in their seed only. A sample's score is its mean over the seeds that answered it, and an
interval over samples is then one for these seeds; how far seeds lie apart is reported beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vtprune.core.errors import VtpruneError
from vtprune.study.cell import Variant
from vtprune.study.names import LENT
from vtprune.study.statistics.bootstrap import Array, Codes

if TYPE_CHECKING:
    from vtprune.study.results import Results


class ScoreError(VtpruneError):
    """Scores that no statistic can be made of: out of range, not a number, or one sample twice in a cell."""


@dataclass(frozen=True)
class Arm:
    """One variant over its seeds (an arm of a trial).

    axes: without the seed. crossed: axes in the study's factorial. A variant that is the same as one of its
    combinations stands for it: the plan lends it the factors, which are in ``crossed`` and not in ``axes``. Of others
    the two are equal. cells: their ids. expected: samples that it has when complete, if that is known. status:
    ``complete``, ``partial``, ``missing`` or ``failed``; note: what is partial about it, or "".
    """

    label: str
    role: str
    of: str | None
    axes: Mapping[str, Any]
    crossed: Mapping[str, Any]
    downsample: float | None
    cells: tuple[str, ...]
    expected: int | None
    status: str
    note: str

    @property
    def name(self) -> str:
        """Label and axes without the seed."""
        return Variant(self.label, "recipe", axes=self.axes).name

    @property
    def budget(self) -> float | int | str | None:
        """A number, text (``unit=value``) or None."""
        return next((value for axis, value in self.axes.items() if last(axis) == "budget"), None)


@dataclass(frozen=True)
class Panel:
    """samples: frame by sample id with columns ``type`` and ``cluster`` (a number, equal for samples of one group);
    seed_scores: for each arm, [sample, seed], NaN where there is no answer."""

    model: str
    task: str
    arms: tuple[Arm, ...]
    samples: pd.DataFrame
    seed_scores: tuple[Array, ...]

    @cached_property
    def scores(self) -> Array:
        """[sample, arm], means over seeds; NaN where no seed has the sample."""
        scores = np.full((len(self.samples), len(self.arms)), np.nan)
        for arm, seeds in enumerate(self.seed_scores):
            count = (~np.isnan(seeds)).sum(axis=1)
            np.divide(np.nansum(seeds, axis=1), count, out=scores[:, arm], where=count > 0)
        return scores

    @property
    def clusters(self) -> Codes:
        """[sample]."""
        return self.samples["cluster"].to_numpy()

    def seed_std(self, arm: int) -> float:
        """Standard deviation (n - 1) of the seeds' accuracies over the samples that all of them have; NaN for fewer
        than two seeds."""
        seeds = self.seed_scores[arm]
        seeds = seeds[:, ~np.isnan(seeds).all(axis=0)]
        common = seeds[~np.isnan(seeds).any(axis=1)]
        return float(common.mean(axis=0).std(ddof=1)) if len(common) and common.shape[1] > 1 else float("nan")

    def references(self, arm: Arm, candidates: list[int]) -> list[int]:
        """Those candidates (places in ``arms``) whose axes agree with the arm's wherever both have the axis. A budget
        that one of them sets at a stage (``stages.0.budget``) has to be the budget of the other, and an arm without one
        meets nothing that has one: it would meet every budget of it."""
        found = []
        for i in candidates:
            other = self.arms[i]
            same = all(other.axes[axis] == arm.axes[axis] for axis in other.axes.keys() & arm.axes.keys())
            own, its = ({str(one.axes[axis]) for axis in one.axes if last(axis) == "budget"} for one in (arm, other))
            if same and (not its or own == its):
                found.append(i)
        return found


def last(axis: str) -> str:
    """``budget`` of ``stages.0.budget``."""
    return axis.rpartition(".")[2]


def panels(results: Results) -> list[Panel]:
    """One panel for each model and task, in the plan's order.

    Raises ScoreError for a score that is not between 0 and 1, or a sample that a cell has twice.
    """
    if results.cells.empty:
        return []
    _check(results.samples)
    rows = dict(iter(results.samples.groupby("cell", sort=False)))
    return [
        _panel(str(model), str(task), cells, rows)
        for (model, task), cells in results.cells.groupby(["model", "task"], sort=False)
    ]


def _panel(model: str, task: str, cells: pd.DataFrame, rows: dict[Any, pd.DataFrame]) -> Panel:
    present = [rows[cell][["sample", "type", "group"]] for cell in cells.index if cell in rows]
    columns = ["sample", "type", "group"]
    samples = pd.concat(present) if present else pd.DataFrame(columns=columns)
    samples = samples.drop_duplicates("sample").set_index("sample").sort_index()
    names = [f"group {group}" if group else f"sample {sample}" for sample, group in samples["group"].items()]
    samples["cluster"] = np.unique(names, return_inverse=True)[1] if names else np.zeros(0, np.intp)

    by_variant: dict[str, list[str]] = {}
    for cell, label, axes in zip(cells.index, cells["label"], cells["axes"], strict=True):
        key = json.dumps([label, _own(axes)], sort_keys=True, default=str)
        by_variant.setdefault(key, []).append(cell)
    done = [len(rows[cell]) for cell in cells.index[cells["status"] == "done"] if cell in rows]
    arms, scores = [], []
    for ids in by_variant.values():
        arms.append(_arm(cells.loc[ids], rows, max(done, default=None)))
        found = [
            rows[cell].set_index("sample")["score"].reindex(samples.index) if cell in rows else None for cell in ids
        ]
        empty = np.full(len(samples), np.nan)
        scores.append(np.stack([empty if one is None else one.to_numpy(float) for one in found], axis=1))
    return Panel(model, task, tuple(arms), samples[["type", "cluster"]], tuple(scores))


def _arm(cells: pd.DataFrame, rows: dict[Any, pd.DataFrame], expected: int | None) -> Arm:
    first, seeds = cells.iloc[0], len(cells)
    if expected is None and pd.notna(first["limit"]):
        expected = int(first["limit"])
    answers = sum(len(rows[cell]) for cell in cells.index if cell in rows)
    errors = [str(error) for error in cells["error"] if isinstance(error, str) and error]
    if (cells["status"] == "done").all():
        status, note = "complete", ""
    elif not answers:
        status, note = ("failed" if (cells["status"] == "failed").any() else "missing"), "no answers yet"
    else:
        total = f" of {expected * seeds}" if expected else ""
        status, note = "partial", f"partial: {answers}{total} answers" + (f" over {seeds} seeds" if seeds > 1 else "")
    return Arm(
        label=first["label"],
        role=first["role"],
        of=first["of"] if isinstance(first["of"], str) else None,
        axes=_own(first["axes"]),
        crossed=_crossed({axis: value for axes in cells["axes"] for axis, value in axes.items()}),
        downsample=None if pd.isna(first["downsample"]) else float(first["downsample"]),
        cells=tuple(cells.index),
        expected=expected,
        status=status,
        note="; ".join([note, *errors[:1]]) if note else "",
    )


def _own(axes: Mapping[str, Any]) -> dict[str, Any]:
    """The axes without the seed and without factors that were lent."""
    return {axis: value for axis, value in axes.items() if last(axis) != "seed" and not axis.startswith(LENT)}


def _crossed(axes: Mapping[str, Any]) -> dict[str, Any]:
    lent = {axis.removeprefix(LENT): value for axis, value in axes.items() if axis.startswith(LENT)}
    return lent or _own(axes)


def _check(samples: pd.DataFrame) -> None:
    wrong = samples[~samples["score"].between(0, 1)]
    if len(wrong):
        row = wrong.iloc[0]
        raise ScoreError(
            f"sample {row['sample']!r} of cell {row['cell']} has score {row['score']}, expected a number from 0 to 1 "
            f"({len(wrong)} such samples); look at the task's score()"
        )
    twice = samples[samples.duplicated(["cell", "sample"])]
    if len(twice):
        row = twice.iloc[0]
        raise ScoreError(
            f"sample {row['sample']!r} is in cell {row['cell']} twice ({len(twice)} such rows); the task gives two "
            f"samples the same id, or the store's files were joined by hand"
        )
