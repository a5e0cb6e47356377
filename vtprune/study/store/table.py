"""One record per cell: what it is, how far it is, and its means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vtprune.study.cell import Cell
from vtprune.study.labels import model_labels, task_labels
from vtprune.study.rows import SampleRow
from vtprune.study.store.state import CellState

if TYPE_CHECKING:
    from vtprune.study.store.folder import Store
    from vtprune.study.store.lines import Scan

MEANS: Final = (
    "prompt_tokens", "vision_tokens", "input_tokens", "mean_tokens", "mean_kv_tokens", "kv_bytes", "kv_bytes_full",
    "flops", "flops_full", "new_tokens",
)  # fmt: skip
"""Columns of samples whose mean is a column of cells."""


def cell_records(store: Store, cells: Sequence[Cell], scans: Sequence[Scan]) -> list[dict[str, Any]]:
    """For each cell: id, name, label, role, of, model, task, axes, downsample, limit, batch_size, status, error,
    samples, accuracy (mean score), the means of `MEANS`, recipe_hash, identity.

    status: ``done``, ``failed``, ``partial`` or ``missing``; see `CellState.status`. Means are None without samples.
    """
    records = []
    for cell, model, task, scan in zip(cells, model_labels(cells), task_labels(cells), scans, strict=True):
        state = CellState.of(scan, store.failure(cell))
        rows = [row for chunk in scan.chunks for row in chunk]
        variant = cell.variant
        records.append(
            {
                "id": cell.id,
                "name": variant.name,
                "label": variant.label,
                "role": variant.role,
                "of": variant.of,
                "model": model,
                "task": task,
                "axes": dict(variant.axes),
                "downsample": variant.downsample,
                "limit": cell.limit,
                "batch_size": cell.batch_size,
                "status": state.status,
                "error": state.error,
                "samples": len(rows),
                "accuracy": _mean(rows, "score"),
                **{column: _mean(rows, column) for column in MEANS},
                "recipe_hash": recipe_hash(cell),
                "identity": dict(cell.identity),
            }
        )
    return records


def _mean(rows: Sequence[SampleRow], column: str) -> float | None:
    return math.fsum(row[column] for row in rows) / len(rows) if rows else None  # type: ignore[literal-required]


def recipe_hash(cell: Cell) -> str | None:
    """`Recipe.hash` of a cell's recipe as it was planned, also where the plugins it needs are not installed.

    None of the unpruned model, and of a cell whose identity is not that of a plan.
    """
    planned = cell.identity.get("variant")
    found = planned.get("recipe") if isinstance(planned, Mapping) else None
    return found if isinstance(found, str) else None
