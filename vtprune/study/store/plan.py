"""plan.json: the cells of a study, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vtprune.study.cell import Cell
from vtprune.study.labels import task_labels
from vtprune.study.store.errors import StoreError

Groups = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class PlanFile:
    """cells: of the study as it is now. earlier: of earlier plans of the same folder, with results that are kept.
    groups: by task label, named groups of sample types."""

    cells: tuple[Cell, ...]
    groups: Groups
    earlier: tuple[Cell, ...] = ()

    @classmethod
    def of(cls, cells: Sequence[Cell], groups: Groups | None) -> PlanFile:
        """A new plan; raises StoreError if two cells are the same."""
        seen: dict[str, Cell] = {}
        for cell in cells:
            if cell.id in seen:
                raise StoreError(
                    f"two cells of the plan are the same: {seen[cell.id].name!r} and {cell.name!r} ask for the same "
                    f"model, task and recipe under two names; take one of them out of the study"
                )
            seen[cell.id] = cell
        return cls(tuple(cells), _groups(cells) if groups is None else groups)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` is its inverse."""
        return {
            "schema": 1,
            "cells": [cell.to_dict() for cell in self.cells],
            "groups": {
                task: {name: list(types) for name, types in groups.items()} for task, groups in self.groups.items()
            },
            "earlier": [cell.to_dict() for cell in self.earlier],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> PlanFile:
        """Raises StoreError for a plan of another version of the format or one that was edited."""
        if data.get("schema") != 1:
            raise StoreError(
                f"{source} has schema {data.get('schema')!r}, expected 1; it is of another vtprune version"
            )
        for cell in data["cells"]:
            if Cell.from_dict(cell).id != cell["id"]:
                raise StoreError(
                    f"{source}: the identity of cell {cell['id']} was changed; run the study to plan it anew"
                )
        cells, earlier = (tuple(map(Cell.from_dict, data[key])) for key in ("cells", "earlier"))
        return cls(cells, data["groups"], earlier)


def merged(new: PlanFile, old: PlanFile, has_results: Callable[[Cell], bool]) -> PlanFile:
    """The new plan, which remembers the cells of the old one that it drops and that have results."""
    current = {cell.id for cell in new.cells}
    earlier = {cell.id: cell for cell in (*old.earlier, *old.cells) if cell.id not in current and has_results(cell)}
    return replace(new, earlier=tuple(earlier.values()))


def _groups(cells: Sequence[Cell]) -> Groups:
    """What the tasks say; raises StoreError if one cannot be built."""
    from vtprune.core.spec import build
    from vtprune.core.task import Task

    found: dict[str, Any] = {}
    for label, cell in zip(task_labels(cells), cells, strict=True):
        if label not in found:
            try:
                task = build("task", cell.task)
            except ValueError as error:
                raise StoreError(f"task {label!r} cannot be planned: {error}") from error
            assert isinstance(task, Task)
            found[label] = task.groups()
    return found
