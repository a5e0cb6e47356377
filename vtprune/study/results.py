"""Results of a study as data frames, read from its folder, finished or not, also without the plugins that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtprune.study.extras import require
from vtprune.study.makers import Maker, makers, missing
from vtprune.study.rows import SAMPLE_COLUMNS, TIME_COLUMNS
from vtprune.study.store import Store
from vtprune.study.store.table import cell_records

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Results:
    """cells: one row per cell of the plan, in its order; the index is the cell's id. Columns: see
    `vtprune.study.store.table.cell_records`; ``axes`` holds dicts.
    samples: one row per sample, columns `SAMPLE_COLUMNS`. times: one row per chunk, columns `TIME_COLUMNS`.
    study: the study file as plain data. groups: by task label, named groups of sample types.
    """

    cells: pd.DataFrame
    samples: pd.DataFrame
    times: pd.DataFrame
    study: dict[str, Any]
    groups: dict[str, dict[str, list[str]]]

    @cached_property
    def made_with(self) -> tuple[Maker, ...]:
        """The distributions whose components, tasks and adapters made the cells of the plan: vtprune, then plugins."""
        return makers(identity for identity in self.cells.get("identity", ()) if isinstance(identity, Mapping))

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """A sentence for each of them that is not installed here, does not work here, or is another version or revision
        than the one that made the results. Reading and reporting them works all the same."""
        return missing(self.made_with)

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Read a study's folder; raises StoreError if it is none, and MissingExtraError without pandas."""
        pd = require("pandas", "study")
        store = Store(folder)
        cells = store.cells()
        scans = [store.scan(cell) for cell in cells]
        records = cell_records(store, cells, scans)
        return cls(
            cells=pd.DataFrame.from_records(records, index="id") if records else pd.DataFrame(),
            samples=pd.DataFrame(
                [row for scan in scans for chunk in scan.chunks for row in chunk], columns=SAMPLE_COLUMNS
            ),
            times=pd.DataFrame([row for cell in cells for row in store.times(cell)], columns=TIME_COLUMNS),
            study=store.study(),
            groups=store.groups(),
        )
