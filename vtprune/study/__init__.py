"""Ablation studies: a grid of recipes, budgets, seeds, models and tasks, resumable, with statistics and a report.

file         the study file (YAML)               attribution  main effects and interactions of a factorial
grid         its grid of variants                statistics   intervals, paired tests, corrections
cell         one unit of work and its identity   figures      the pictures
plan         all cells, and what they cost       report       HTML, Markdown and LaTeX
worker       answering one cell's samples        store        append-only results, then Parquet
executors    inline, processes, Ray              progress     bars, a live table and a log
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtprune.study.file import load_study
    from vtprune.study.run import plan_study, report_study, run_study

__all__ = ["load_study", "plan_study", "report_study", "run_study"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{'file' if name == 'load_study' else 'run'}"), name)
