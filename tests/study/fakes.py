"""Cells and workers without a model, for tests of the store and the executors. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vtprune.study.cell import Cell, ModelRef, Variant
from vtprune.study.rows import SampleRow, TimeRow
from vtprune.study.store import Claim, Store

HERE = "tests.study.fakes"
BEGUN = "FAKE_BEGUN"


def make_cell(label: str = "a", model: str = "mini", *, samples: int = 8, batch: int = 3, **task: Any) -> Cell:
    """A cell of the made-up task; ``task``: its parameters."""
    identity = {"label": label, "model": model, "samples": samples, "batch": batch, **task}
    variant = Variant(label, "recipe", axes={"budget": 0.25, "seed": len(label)})
    return Cell(ModelRef(model), {"name": "made-up", **task}, variant, samples, batch, identity)


def make_rows(cell: Cell, first: int, count: int) -> list[SampleRow]:
    """Rows number first to first + count: functions of the cell and the index, as a real worker's are."""
    return [_row(cell, index) for index in range(first, first + count)]


def _row(cell: Cell, index: int) -> SampleRow:
    seed = hashlib.sha256(f"{cell.id} {index}".encode()).digest()
    pruned = seed[0] % 2 == 0
    return {
        "cell": cell.id,
        "index": index,
        "sample": f"sample-{index}",
        "type": ("count", "colour")[index % 2],
        "group": f"image-{index // 2}",
        "answer": f'drei "grüne"\n\u2028 {seed[1]}',
        "references": ["three", "3"],
        "score": seed[2] / 255,
        "prompt_tokens": 40,
        "vision_tokens": 36,
        "input_tokens": 36,
        "mean_tokens": seed[3] / 7,
        "mean_kv_tokens": seed[4] / 3,
        "kv_bytes": 2**40 + seed[5],
        "kv_bytes_full": 2**41,
        "flops": 10**15 + seed[6],
        "flops_full": 10**16,
        "new_tokens": seed[7],
        "tokens_by_layer": [36, seed[8]] if pruned else None,
        "kv_by_head": [[36, 1], [seed[9], 2]] if pruned else None,
        "kept": [1, 5] if index < 2 else None,
        "kept_share": [0.25, 1.0] if index < 1 else None,
        "grids": [[1, 4, 9]] if index < 2 else None,
        "crops": [[0.0, -0.125, 1.0, 0.625]] if index < 2 else None,
    }


def make_time(cell: Cell, chunk: int, samples: int) -> TimeRow:
    """Times that differ from run to run."""
    now = time.perf_counter()
    times = {"prepare": now, "generate": now, "stages": [now, now]}
    return {"cell": cell.id, "chunk": chunk, "samples": samples, **times, "device": "cpu", "dtype": "float32"}  # type: ignore[typeddict-item]


def make_store(folder: Path, cells: Sequence[Cell]) -> Store:
    """A store with that plan."""
    store = Store(folder)
    store.write_plan({"name": "made-up-study"}, cells, groups={"made-up": {"words": ["colour"]}})
    return store


class FakeWorker:
    """Does what a worker does, at once, or in its task's ``seconds`` per chunk.

    The task's ``raises`` makes it fail after a chunk; ``kills`` makes it kill its process after each chunk ("always")
    or once, leaving behind the file that it names. If the environment's FAKE_BEGUN names a file, the beginning of each
    chunk adds a byte to it.
    """

    def __init__(self, threads: int = 1) -> None:
        self.models: list[str] = []

    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        if self.models[-1:] != [cell.model.id]:
            self.models.append(cell.model.id)
        assert cell.limit is not None
        for chunk, first in enumerate(range(0, cell.limit, cell.batch_size)):
            if chunk < claim.chunks_done:
                continue
            if BEGUN in os.environ:
                with open(os.environ[BEGUN], "ab") as file:
                    file.write(b".")
            time.sleep(cell.task.get("seconds", 0))
            rows = make_rows(cell, first, min(cell.batch_size, cell.limit - first))
            claim.append(rows, make_time(cell, chunk, len(rows)))
            progress(len(rows))
            if cell.task.get("raises"):
                raise RuntimeError(cell.task["raises"])
            kills = cell.task.get("kills")
            if kills and (kills == "always" or not Path(kills).exists()):
                if kills != "always":
                    Path(kills).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        claim.finish()


class PluginWorker:
    """Builds its task first, as the real worker does."""

    def __init__(self, threads: int = 1) -> None:
        pass

    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        from vtprune.core.spec import build

        build("task", cell.task)


class BrokenWorker:
    """Cannot be made."""

    def __init__(self, threads: int = 1) -> None:
        raise OSError("libcuda.so not found")


FAKE = f"{HERE}:{FakeWorker.__name__}"
PLUGIN = f"{HERE}:{PluginWorker.__name__}"
BROKEN = f"{HERE}:{BrokenWorker.__name__}"


def content(store: Store) -> dict[str, bytes]:
    """The bytes of every cell's file, and of samples.parquet and cells.parquet if they are there."""
    paths = [*store.folder.glob("cells/*.jsonl"), store.folder / "samples.parquet", store.folder / "cells.parquet"]
    return {path.name: path.read_bytes() for path in paths if path.exists()}
