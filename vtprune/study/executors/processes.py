"""Several processes on this machine, each of which walks through the cells and takes what is free.

A process that dies (killed, out of memory) costs the chunk in hand: another one takes its place and its cell goes on.
A cell at which two processes died counts as failed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vtprune.study.cell import Cell
from vtprune.study.executors.base import Job, Listener
from vtprune.study.executors.work import DEATHS, ExecutorError, by_model, give_up, make_worker, walk
from vtprune.study.store import Store, StoreError

POLL = 0.2  # seconds between two looks at the children


def run(job: Job, listener: Listener) -> None:
    """Work on every cell that is free.

    Ctrl-C lets each process end its chunk, a second Ctrl-C kills them; both raise KeyboardInterrupt. Raises StoreError
    if the store cannot be written and ExecutorError if a process cannot be started.
    """
    crew = _Crew(job)
    try:
        crew.gather()
        while crew.watch():
            listener.update()
    finally:
        crew.stop()


class _Crew:
    """The child processes. Each has a pipe of its own to tell what it works on, so that one that is killed while it
    writes harms no other; all listen to one pipe that closes when they have to stop, also if the parent is killed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._context = multiprocessing.get_context("spawn")
        self._listening, self._running = self._context.Pipe(duplex=False)
        self._children: dict[BaseProcess, Connection] = {}
        self._at: dict[BaseProcess, str] = {}
        self._deaths: Counter[str] = Counter()
        self._started = 0

    def gather(self) -> None:
        """Start as many children as there are workers asked for, or cells to do."""
        todo = sum(not self._job.store.finished(cell) for cell in self._job.cells)
        for _ in range(min(self._job.workers, todo)):
            self._start()

    def _start(self) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        job = self._job
        cells = [cell.to_dict() for cell in job.cells]
        given = (
            job.store.folder,
            cells,
            self._started,
            job.attempts,
            job.factory,
            job.threads,
            self._listening,
            sender,
        )
        child = self._context.Process(target=_child, args=given, name=f"vtprune-worker-{self._started}")
        with _ctrl_c_waits():
            child.start()
            sender.close()
            self._children[child] = receiver
            self._started += 1

    def watch(self) -> bool:
        """Wait a moment and see to the children that ended; False when none is left."""
        wait([child.sentinel for child in self._children], POLL)
        for child in list(self._children):
            ended = child.exitcode is not None
            self._listen(child)
            if ended:
                self._children.pop(child).close()
                child.join()
                if child.exitcode:
                    self._died(child)
        return bool(self._children)

    def _listen(self, child: BaseProcess) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self._children[child].poll():
                kind, text = self._children[child].recv()
                if kind == "store":
                    raise StoreError(text)
                if kind == "worker":
                    raise ExecutorError(text)
                self._at[child] = text

    def _died(self, child: BaseProcess) -> None:
        code = child.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        cell = next((cell for cell in self._job.cells if cell.id == self._at.get(child)), None)
        if cell is None:
            raise ExecutorError(
                f"a worker process ended before its first cell ({how}); see its message above. A script that starts "
                f"a study must do so under: if __name__ == '__main__'"
            )
        self._deaths[cell.id] += 1
        self._job.store.log(f"worker {child.pid} died ({how}) at {cell.name}")
        if self._deaths[cell.id] >= DEATHS:
            give_up(self._job.store, cell, how)
        self._start()

    def stop(self) -> None:
        """End the children after their chunk; at Ctrl-C, at once."""
        self._running.close()
        try:
            for child in self._children:
                child.join()
        except KeyboardInterrupt:
            for child in self._children:
                child.kill()
            for child in self._children:
                child.join()
            raise
        finally:
            self._listening.close()


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C reaches this thread only after the block, and a process that is started in it never: Ctrl-C would end one
    that is still importing, with a traceback."""
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process and unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(
    folder: Path,
    cells: Sequence[dict[str, Any]],
    number: int,
    attempts: dict[str, int],
    factory: str,
    threads: int,
    stop: Connection,
    sender: Connection,
) -> None:
    """One process: walk through the cells, starting with another model than the others.

    Ctrl-C reaches the whole group; the parent says what is to be done.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also in what a worker starts, which may unblock the signal

    def check(samples: int = 0) -> None:
        if stop.poll():
            raise KeyboardInterrupt

    def begins(cell: Cell) -> None:
        check()
        sender.send(("cell", cell.id))

    try:
        walk(
            partial(make_worker, factory, threads),
            Store(folder),
            by_model(map(Cell.from_dict, cells), number),
            attempts,
            check,
            begins,
        )
    except (KeyboardInterrupt, BrokenPipeError):
        return
    except StoreError as error:
        sender.send(("store", str(error)))
    except ExecutorError as error:
        sender.send(("worker", str(error)))
