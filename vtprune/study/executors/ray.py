"""Ray actors on this machine, or on the Ray cluster that the program is connected to.

Each actor keeps a worker with its model loaded, and cells stream through it. A cluster's machines must share the
study's folder, on a file system with locks.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from vtprune.core.errors import first_line
from vtprune.study.cell import Cell
from vtprune.study.executors.base import Job, Listener
from vtprune.study.executors.work import DEATHS, Attempts, ExecutorError, Worker, by_model, give_up, make_worker, work
from vtprune.study.extras import require
from vtprune.study.store import Store

POLL = 0.5  # seconds between two updates of the listener


def run(job: Job, listener: Listener) -> None:
    """Work on every cell that is free.

    At Ctrl-C the actors are killed, at the cost of the chunks in hand. A Ray that was running before is left running.
    Raises MissingExtraError without Ray and StoreError if the store cannot be written.
    """
    ray = require("ray", "ray")
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=job.workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    crew = _Crew(ray, job)
    try:
        while crew.watch():
            listener.update()
    finally:
        crew.stop()
        if ours:
            ray.shutdown()


class _Crew:
    """The actors. One gets its first cell once it has started: one without room in the cluster holds up nothing."""

    def __init__(self, ray: Any, job: Job) -> None:
        self._ray, self._job = ray, job
        gpus = ray.cluster_resources().get("GPU", 0)
        share = 1 / math.ceil(job.workers / gpus) if gpus else 0
        self._remote = ray.remote(_Actor).options(num_cpus=1, num_gpus=share)
        self._todo = [cell for cell in job.cells if not job.store.finished(cell)]
        self._busy: dict[Any, tuple[Any, Cell | None]] = {}
        self._deaths: Counter[str] = Counter()
        for number in range(min(job.workers, len(self._todo))):
            self._start(number)

    def _start(self, number: int = 0) -> None:
        job = self._job
        actor = self._remote.remote(job.store.folder.absolute(), dict(job.attempts), job.factory, job.threads)
        start = by_model(self._todo, number)
        self._busy[actor.ready.remote(start[0].model if start else None)] = (actor, None)

    def watch(self) -> bool:
        """Wait a moment and give cells to the actors that are idle; False when all cells have been given and ended."""
        done, _ = self._ray.wait(list(self._busy), timeout=POLL)
        for reference in done:
            actor, cell = self._busy.pop(reference)
            try:
                model = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                self._died(cell, error)
                continue
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            self._next(actor, model)
        return bool(self._todo) or any(cell is not None for _, cell in self._busy.values())

    def _next(self, actor: Any, model: Any) -> None:
        if not self._todo:
            self._ray.kill(actor)
            return
        cell = next((cell for cell in self._todo if cell.model == model), self._todo[0])
        self._todo.remove(cell)
        self._busy[actor.run.remote(cell.to_dict())] = (actor, cell)

    def _died(self, cell: Cell | None, error: Exception) -> None:
        if cell is None:
            raise ExecutorError(f"an actor ended before its first cell: {error}") from error
        how = first_line(error)
        self._deaths[cell.id] += 1
        self._job.store.log(f"an actor died at {cell.name}: {how}")
        if self._deaths[cell.id] >= DEATHS:
            give_up(self._job.store, cell, how)
        else:
            self._todo.insert(0, cell)
        self._start()

    def stop(self) -> None:
        """Kill the actors; what they had appended is on disk."""
        for actor, _ in self._busy.values():
            self._ray.kill(actor)


class _Actor:
    """One worker, made when its first cell comes."""

    def __init__(self, folder: Path, attempts: Attempts, factory: str, threads: int) -> None:
        self._store, self._attempts = Store(folder), attempts
        self._worker: Worker = make_worker(factory, threads)

    def ready(self, model: Any) -> Any:
        """Gives back the model to begin with."""
        return model

    def run(self, cell: dict[str, Any]) -> Any:
        """Works on a cell and gives back its model."""
        found = Cell.from_dict(cell)
        work(self._worker, self._store, found, self._attempts, lambda samples: None)
        return found.model
