"""A study on disk: append-only JSON lines while it runs, Parquet when it is finalised.

    study.json        the study file, with every default filled in
    plan.json         the cells, in order; cells of earlier plans that have results; groups of sample types
    cells/ID.jsonl    a cell's rows, one line per chunk; byte for byte the same on every run
    times/ID.jsonl    their wall times, one line per chunk
    errors/ID.json    why a cell failed the last time; gone once it is finished
    locks/ID.lock     held (`flock`) by the process that works on a cell; released by the system if it is killed
    log.txt           what happened, one line per event

A process may be killed at any moment: at most the chunk in hand is computed again. Several processes may work on one
folder.

files      writing that survives: whole files, lines, locks        folder   `Store`
lines      one chunk as one line, checked by CRC-32                parquet  samples, cells and times as Parquet
claim      `Claim`: appending to a cell                            state    `CellState`: how far a cell is
table      one record per cell                                     errors   what can go wrong
"""

from vtprune.study.store.claim import Claim
from vtprune.study.store.errors import DamagedError, RowError, StoreError
from vtprune.study.store.folder import Store
from vtprune.study.store.state import CellState, failure_text

__all__ = ["CellState", "Claim", "DamagedError", "RowError", "Store", "StoreError", "failure_text"]
