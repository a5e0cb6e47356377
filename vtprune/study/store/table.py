"""One record per cell: what it is, how far it is, and its means."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vtprune.study.cell import Cell
from vtprune.study.labels import model_labels, task_labels
from vtprune.study.rows import SampleRow

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

    status: ``done``, ``failed`` (the latest attempt did, or the file is damaged), ``partial`` (some samples) or
    ``missing``. Means are None without samples.
    """
    records = []
    for cell, model, task, scan in zip(cells, model_labels(cells), task_labels(cells), scans, strict=True):
        failure = store.failure(cell)
        error = scan.damage or (failure and f"{failure['type']}: {failure['message']}") or None
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
                "status": _status(scan, error),
                "error": error,
                "samples": len(rows),
                "accuracy": _mean(rows, "score"),
                **{column: _mean(rows, column) for column in MEANS},
                "recipe_hash": recipe_hash(cell),
                "identity": dict(cell.identity),
            }
        )
    return records


def _status(scan: Scan, error: str | None) -> str:
    if scan.finished and scan.damage is None:
        return "done"
    if error is not None:
        return "failed"
    return "partial" if scan.chunks else "missing"


def _mean(rows: Sequence[SampleRow], column: str) -> float | None:
    return math.fsum(row[column] for row in rows) / len(rows) if rows else None  # type: ignore[literal-required]


def recipe_hash(cell: Cell) -> str | None:
    """`Recipe.hash` of a cell's recipe as it was planned, also where the plugins it needs are not installed."""
    recipe = cell.variant.recipe
    if recipe is None:
        return None
    if isinstance(planned := cell.identity.get("variant"), Mapping) and isinstance(planned.get("recipe"), str):
        return planned["recipe"]
    acting = {key: recipe[key] for key in ("schema_version", "stages")}
    return hashlib.sha256(json.dumps(acting, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
