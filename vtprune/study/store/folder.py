"""The folder of a study: its plan, its cells, who works on which, and what came of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vtprune.study.cell import Cell
from vtprune.study.rows import SampleRow, TimeRow
from vtprune.study.store import files, lines
from vtprune.study.store.claim import Claim, json_bytes
from vtprune.study.store.errors import DamagedError, StoreError
from vtprune.study.store.plan import Groups, PlanFile, merged
from vtprune.study.store.state import CellState

_FOLDERS = ("cells", "times", "errors", "locks")
_logger = logging.getLogger("vtprune.study")


class Store:
    """A study's folder; nothing is read or made before a method asks for it. See `vtprune.study.store`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    # -- the plan ------------------------------------------------------------------------------------------------------

    def write_plan(self, study: Mapping[str, Any], cells: Sequence[Cell], groups: Groups | None = None) -> None:
        """Make the folder, or give it a new plan; results that are there stay.

        study: the study file as plain data, with its ``name``. groups: by task label, named groups of sample types;
        None asks the tasks.
        Raises StoreError if two cells are the same, or if the folder holds another study or something else.
        """
        plan = PlanFile.of(cells, groups)
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._check_is_ours(study["name"])
        with files.explained(self.folder):
            (self.folder / "locks").mkdir(exist_ok=True)
        handle = files.lock(self.folder / "locks" / "plan.lock", wait=True)
        assert handle is not None
        try:
            self._check_is_ours(study["name"])
            with files.explained(self.folder):
                for name in _FOLDERS:
                    (self.folder / name).mkdir(exist_ok=True)
            if (self.folder / "plan.json").exists():
                plan = merged(plan, self._plan(), lambda cell: self.cell_file(cell).exists())
            files.write(self.folder / "study.json", json_bytes(dict(study)))
            files.write(self.folder / "plan.json", json_bytes(plan.to_dict()))
        finally:
            files.unlock(handle)

    def _check_is_ours(self, name: str) -> None:
        if (self.folder / "study.json").exists():
            found = self.study().get("name")
            if found != name:
                raise StoreError(
                    f"{self.folder} holds the study {found!r}, not {name!r}; choose another folder for {name!r}"
                )
            return
        strange = [
            path.name
            for path in self.folder.iterdir()
            if path.name not in (*_FOLDERS, "log.txt") and not path.name.startswith(files.TEMPORARY)
        ]
        if strange:
            some = ", ".join(sorted(strange)[:3]) + (", ..." if len(strange) > 3 else "")
            raise StoreError(
                f"{self.folder} is no study folder (it has no study.json) and is not empty: {some}; choose a new or an "
                f"empty folder"
            )

    def study(self) -> dict[str, Any]:
        """The study file as plain data; raises StoreError if the folder holds no study."""
        return self._json("study.json")

    def cells(self) -> list[Cell]:
        """The plan's cells, in order; raises StoreError if there is no plan."""
        return list(self._plan().cells)

    def groups(self) -> dict[str, dict[str, list[str]]]:
        """By task label, named groups of sample types."""
        return {task: {group: list(types) for group, types in of.items()} for task, of in self._plan().groups.items()}

    def _plan(self) -> PlanFile:
        return PlanFile.from_dict(self._json("plan.json"), str(self.folder / "plan.json"))

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise StoreError(
                f"{self.folder} holds no study: {name} is missing; is this the folder of a study?"
            ) from None
        except ValueError as error:
            raise StoreError(
                f"{path} is not valid JSON: {error}; it was changed by something other than vtprune"
            ) from None
        return dict(data)

    # -- one cell ------------------------------------------------------------------------------------------------------

    def cell_file(self, cell: Cell) -> Path:
        """Where the rows are."""
        return self.folder / "cells" / f"{cell.id}.jsonl"

    def times_file(self, cell: Cell) -> Path:
        """Where the times are."""
        return self.folder / "times" / f"{cell.id}.jsonl"

    def error_file(self, cell: Cell) -> Path:
        """Where the latest failure is, if any."""
        return self.folder / "errors" / f"{cell.id}.json"

    def claim(self, cell: Cell) -> Claim | None:
        """The right to work on a cell, or None if it is finished or another process works on it.

        Raises DamagedError (and records it as the cell's failure) if the file is damaged before its last line, and
        StoreError if the folder cannot be written.
        """
        if self.finished(cell):
            return None
        handle = files.lock(self.folder / "locks" / f"{cell.id}.lock")
        if handle is None:
            return None
        claim = Claim(self, cell, handle)
        try:
            claim.resume()
        except DamagedError as error:
            claim.fail(error)
            claim.release()
            raise
        except BaseException:
            claim.release()
            raise
        for repair in claim.repaired:
            _logger.warning("%s", repair)
            self.log(f"repaired {repair}")
        if claim.finished:  # by another process, after the first look
            claim.release()
            return None
        return claim

    def finished(self, cell: Cell) -> bool:
        """Whether a cell is complete; reads its last line only."""
        return lines.is_finished(self.cell_file(cell))

    def failure(self, cell: Cell) -> dict[str, Any] | None:
        """The latest failure: type, message, traceback, chunk, attempts; None without one or if it was overcome."""
        path = self.error_file(cell)
        try:
            return None if self.finished(cell) else dict(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except ValueError:
            return {
                "type": "unknown",
                "message": f"{path} is not valid JSON",
                "traceback": "",
                "chunk": 0,
                "attempts": 0,
            }

    def attempts(self, cell: Cell) -> int:
        """How often the cell failed since it was last complete or new."""
        return int((self.failure(cell) or {}).get("attempts", 0))

    def scan(self, cell: Cell) -> lines.Scan:
        """All that the cell's file holds; a line that another process is just writing is left out."""
        return lines.scan(self.cell_file(cell))

    def state(self, cell: Cell) -> CellState:
        """How far a cell is."""
        return CellState.of(self.scan(cell), self.failure(cell))

    def rows(self, cell: Cell) -> list[SampleRow]:
        """The rows of a cell, as many as there are."""
        return [row for chunk in self.scan(cell).chunks for row in chunk]

    def times(self, cell: Cell) -> list[TimeRow]:
        """The times of a cell's chunks, as many as there are."""
        path = self.times_file(cell)
        found = [lines.decode(line) for line in path.read_bytes().splitlines(keepends=True)] if path.exists() else []
        rows: list[Any] = [{column: data.get(column) for column in lines.TIME_COLUMNS} for data in found if data]
        return rows

    # -- the whole -----------------------------------------------------------------------------------------------------

    def finalise(self) -> None:
        """Write samples.parquet, cells.parquet and times.parquet from what is there, also of an unfinished study.

        Raises StoreError if they cannot be written, and MissingExtraError without pyarrow.
        """
        from vtprune.study.store.parquet import write_tables

        write_tables(self)

    def log(self, event: str) -> None:
        """Add a line to log.txt; a log that cannot be written stops nothing."""
        line = f"{datetime.now().astimezone().isoformat(timespec='seconds')} {' '.join(event.split())}\n"
        try:
            files.append(self.folder / "log.txt", line.encode(errors="replace"), durable=False)
        except StoreError as error:
            _logger.warning("%s", error)
