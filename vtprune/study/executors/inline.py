"""In this process, one cell after another."""

from __future__ import annotations

from functools import partial

from vtprune.study.executors.base import Job, Listener
from vtprune.study.executors.work import make_worker, walk


def run(job: Job, listener: Listener) -> None:
    """Work on every cell that is free; raises KeyboardInterrupt at Ctrl-C, and the chunk in hand is lost."""
    walk(
        partial(make_worker, job.factory, job.threads),
        job.store,
        job.cells,
        job.attempts,
        lambda samples: listener.update(),
    )
