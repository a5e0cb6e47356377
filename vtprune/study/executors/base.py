"""`execute`: run a study's cells, wherever, and say what came of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from vtprune.core.errors import did_you_mean
from vtprune.study.cell import Cell
from vtprune.study.executors.work import Attempts, ExecutorError, by_model
from vtprune.study.names import EXECUTORS, Executor
from vtprune.study.store import Store, failure_text

WORKER: Final = "vtprune.study.worker:Worker"


class Listener(Protocol):
    """Told while a study runs; reads what there is to know from the store."""

    def begin(self) -> None:
        """Called once, before the first cell."""

    def update(self) -> None:
        """Called often: after each chunk, or a few times a second."""

    def end(self) -> None:
        """Called once, whatever happened."""


class Silent:
    """A listener that does nothing."""

    def begin(self) -> None: ...

    def update(self) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """What an executor needs to know. factory: of workers, ``package.module:attribute``."""

    store: Store
    cells: Sequence[Cell]
    attempts: Attempts
    workers: int
    threads: int
    factory: str


@dataclass(frozen=True)
class Outcome:
    """Numbers of cells. before: finished already; finished: now; failed: by cell id, why, only of this run; left:
    neither finished nor failed, because of an interruption or because another run is at them."""

    before: int
    finished: int
    failed: Mapping[str, str]
    left: int
    interrupted: bool


def execute(
    store: Store,
    cells: Sequence[Cell],
    *,
    executor: Executor = "inline",
    workers: int = 1,
    threads: int = 1,
    listener: Listener | None = None,
    factory: str = WORKER,
) -> Outcome:
    """Work on every cell that is not finished; Ctrl-C ends it after the chunks in hand, and a later call goes on.

    workers: processes or actors; inline has one. threads: of torch in each, part of what rows depend on. factory: what
    makes a worker, called with ``threads``.
    Failures of cells are recorded in the store and in the outcome; the others go on. Raises StoreError if the store
    cannot be written, and ExecutorError if workers cannot be started.
    """
    if executor not in EXECUTORS:
        raise ExecutorError(f"unknown executor {executor!r}.{did_you_mean(executor, EXECUTORS)}")
    if workers < 1 or threads < 1:
        raise ExecutorError(f"workers={workers}, threads={threads}: both must be at least 1")
    listener = listener or Silent()
    cells = by_model(cells)
    attempts = {cell.id: store.attempts(cell) for cell in cells}
    before = _finished(store, cells)
    run: Callable[[Job, Listener], None] = importlib.import_module(f"vtprune.study.executors.{executor}").run
    interrupted = False
    store.log(f"run begins: {executor}, workers={workers}, threads={threads}, {before} of {len(cells)} cells finished")
    listener.begin()
    try:
        run(Job(store, cells, attempts, workers, threads, factory), listener)
    except KeyboardInterrupt:
        interrupted = True
    except Exception as error:
        store.log(f"run stopped: {type(error).__name__}: {error}")
        raise
    finally:
        listener.end()
    failed = {cell.id: text for cell in cells if (text := _failure(store, cell, attempts)) is not None}
    finished = _finished(store, cells)
    left = len(cells) - finished - len(failed)
    store.log(
        f"run {'interrupted' if interrupted else 'ends'}: {finished - before} cells finished now, "
        f"{len(failed)} failed, {left} left"
    )
    return Outcome(before, finished - before, failed, left, interrupted)


def _finished(store: Store, cells: Sequence[Cell]) -> int:
    return sum(store.finished(cell) for cell in cells)


def _failure(store: Store, cell: Cell, attempts: Attempts) -> str | None:
    failure: dict[str, Any] | None = store.failure(cell)
    if failure is None or failure["attempts"] <= attempts[cell.id]:
        return None
    return failure_text(failure)
