"""What every executor does with a cell: claim it, let a worker answer it, record how it ended."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from vtprune.core.errors import VtpruneError
from vtprune.study.cell import Cell
from vtprune.study.store import Claim, DamagedError, Store, StoreError

Attempts = Mapping[str, int]
"""By cell id, how often a cell had failed when the run began; a cell that failed more often is left to the next run."""

DEATHS: Final = 2
"""Workers that die at one cell before it counts as failed."""


class ExecutorError(VtpruneError):
    """Workers that cannot be started, or that end before they have done anything."""


class WorkerDiedError(ExecutorError):
    """A cell at which worker after worker was killed."""


class Worker(Protocol):
    """What answers cells, e.g. `vtprune.study.worker.Worker`."""

    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        """Append what the claim has not got, call progress(samples) after each chunk, and finish the claim."""


def make_worker(factory: str, threads: int) -> Worker:
    """What ``package.module:attribute`` makes of ``threads``; raises ExecutorError if there is no such thing."""
    module, _, attribute = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExecutorError(
            f"worker {factory!r} cannot be imported: {error}; expected 'package.module:attribute'"
        ) from error
    try:
        worker: Worker = make(threads)
    except Exception as error:
        raise ExecutorError(f"worker {factory!r} cannot be made: {type(error).__name__}: {error}") from error
    return worker


def by_model(cells: Iterable[Cell], start: int = 0) -> list[Cell]:
    """The cells of one model together, and in it those of one task, so that each is loaded once.

    start: number of the model to begin with, so that several workers begin with different ones.
    """
    models: dict[Any, dict[str, list[Cell]]] = {}
    for cell in cells:
        models.setdefault(cell.model, {}).setdefault(repr(cell.task), []).append(cell)
    groups = [[cell for task in tasks.values() for cell in task] for tasks in models.values()]
    first = start % len(groups) if groups else 0
    return [cell for group in groups[first:] + groups[:first] for cell in group]


def work(
    worker: Worker, store: Store, cell: Cell, attempts: Attempts, progress: Callable[[int], None]
) -> Literal["finished", "failed", "skipped"]:
    """Work on one cell if it is free; whatever it raises is recorded as its failure.

    Raises StoreError if the store cannot be written, and KeyboardInterrupt.
    """
    if _failed_now(store, cell, attempts):
        return "skipped"
    try:
        claim = store.claim(cell)
    except DamagedError as error:
        store.log(f"failed {cell.name}: {error}")
        return "failed"
    if claim is None:
        return "skipped"
    with claim:
        if _failed_now(store, cell, attempts):  # by another process, between the two looks
            return "skipped"
        try:
            worker.run(cell, claim, progress)
            if not claim.finished:
                raise ExecutorError(f"{type(worker).__name__}.run returned without finishing {cell.name}")
        except StoreError:
            raise
        except Exception as error:
            claim.fail(error)
            store.log(f"failed {cell.name} after {claim.samples_done} samples: {type(error).__name__}: {error}")
            return "failed"
    store.log(f"finished {cell.name}: {claim.samples_done} samples")
    return "finished"


def _failed_now(store: Store, cell: Cell, attempts: Attempts) -> bool:
    return store.attempts(cell) > attempts.get(cell.id, 0)


def give_up(store: Store, cell: Cell, how: str) -> None:
    """Record as a failure that workers died at a cell."""
    with contextlib.suppress(DamagedError):
        claim = store.claim(cell)
        if claim is not None:
            with claim:
                claim.fail(
                    WorkerDiedError(
                        f"{DEATHS} workers died at this cell, the latest one {how}. Out of memory? Try fewer workers "
                        f"or a smaller batch_size"
                    )
                )


def walk(
    make: Callable[[], Worker],
    store: Store,
    cells: Sequence[Cell],
    attempts: Attempts,
    progress: Callable[[int], None],
    begins: Callable[[Cell], None] = lambda cell: None,
) -> None:
    """Go through the cells until none is free; a second round takes what other processes have left behind.

    make: called once, and only if there is something to do. begins: called before each cell.
    """
    worker: Worker | None = None
    busy = True
    while busy:
        busy = False
        for cell in cells:
            if store.finished(cell):
                continue
            worker = worker or make()
            begins(cell)
            busy |= work(worker, store, cell, attempts, progress) != "skipped"
