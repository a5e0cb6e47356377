"""How far a cell is, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vtprune.study.store.lines import Scan

Status = Literal["done", "failed", "partial", "missing"]


@dataclass(frozen=True)
class CellState:
    """samples_done: samples on disk; error: why the latest attempt failed, or what damaged the file, or None."""

    samples_done: int
    finished: bool
    error: str | None

    @classmethod
    def of(cls, scan: Scan, failure: Mapping[str, Any] | None) -> CellState:
        """scan: of the cell's file; failure: its latest, as of `Store.failure`."""
        error = scan.damage or (None if failure is None else failure_text(failure))
        return cls(scan.samples, scan.finished and scan.damage is None, error)

    @property
    def status(self) -> Status:
        """``failed``: the latest attempt did, or the file is damaged; ``partial``: there are some samples."""
        if self.finished:
            return "done"
        if self.error is not None:
            return "failed"
        return "partial" if self.samples_done else "missing"


def failure_text(failure: Mapping[str, Any]) -> str:
    """A failure of `Store.failure` in one line of type and message."""
    return f"{failure['type']}: {failure['message']}"
