"""What tables call a model or a task: its name, and, where that is not enough, what sets it apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vtprune.study.cell import Cell


def model_labels(cells: Iterable[Cell]) -> list[str]:
    """For each cell its model's label: the id, then the fields in which models of that id differ
    (``testbed/default dtype=bfloat16``)."""
    return _labels([vars(cell.model) for cell in cells], "id")


def task_labels(cells: Iterable[Cell]) -> list[str]:
    """For each cell its task's label: the name, then the parameters in which tasks of that name differ."""
    return _labels([cell.task for cell in cells], "name")


def _labels(entries: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    same: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        same.setdefault(entry[name], []).append(entry)
    differ = {
        key: [
            field
            for field in dict.fromkeys(f for e in of for f in e)
            if any(e.get(field) != of[0].get(field) for e in of)
        ]
        for key, of in same.items()
    }
    return [
        " ".join([entry[name], *(f"{field}={entry.get(field)}" for field in differ[entry[name]])]) for entry in entries
    ]
