"""A report's unit: what a study found for one model on one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vtprune.study.attribution import Attribution
from vtprune.study.results import Results
from vtprune.study.statistics import Summary


@dataclass(frozen=True)
class Part:
    """cells, samples, times: of `Results`; accuracy, types, comparisons: of `Summary`; effects, interactions, variance:
    of `Attribution`; all of this model and task only. level: of intervals, in words. groups: of question types."""

    model: str
    task: str
    level: str
    groups: Mapping[str, Sequence[str]]
    cells: pd.DataFrame
    samples: pd.DataFrame
    times: pd.DataFrame
    accuracy: pd.DataFrame
    types: pd.DataFrame
    comparisons: pd.DataFrame
    effects: pd.DataFrame
    interactions: pd.DataFrame
    variance: pd.DataFrame

    @property
    def title(self) -> str:
        """Model and task."""
        return f"{self.model} / {self.task}"


def parts(results: Results, summary: Summary, attribution: Attribution) -> list[Part]:
    """One for each model and task, in the plan's order."""
    found = []
    for model, task in dict.fromkeys(zip(results.cells["model"], results.cells["task"], strict=True)):
        frames = {
            name: _of(frame, model, task)
            for source, names in (
                (summary, ("accuracy", "types", "comparisons")),
                (attribution, ("effects", "interactions", "variance")),
            )
            for name, frame in ((name, getattr(source, name)) for name in names)
        }
        cells = _of(results.cells, model, task)
        found.append(
            Part(
                model=str(model),
                task=str(task),
                level=f"{100 * summary.settings.confidence:g} %",
                groups=results.groups.get(str(task), {}),
                cells=cells,
                samples=results.samples[results.samples["cell"].isin(cells.index)],
                times=results.times[results.times["cell"].isin(cells.index)],
                **frames,
            )
        )
    return found


def _of(frame: pd.DataFrame, model: str, task: str) -> pd.DataFrame:
    return frame[(frame["model"] == model) & (frame["task"] == task)]
