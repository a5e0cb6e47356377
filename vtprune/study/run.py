"""Planning, running and reporting a study: what ``vtprune study`` does, as functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vtprune.core.errors import VtpruneError
from vtprune.study.estimate import seconds_per_sample
from vtprune.study.extras import require
from vtprune.study.file import StudyFile, load_study
from vtprune.study.names import Executor
from vtprune.study.plan import Plan, make_plan

if TYPE_CHECKING:
    from vtprune.study.store import Store

NEEDED = ("pandas", "pyarrow", "scipy", "statsmodels", "matplotlib", "jinja2")
"""Libraries of the extra ``study``, which the end of a run needs."""


@dataclass(frozen=True)
class Finished:
    """What a run left behind. failed: error message of each cell that failed, by the cell's name. elsewhere: cells that
    another run is at. report: the page to open."""

    folder: Path
    plan: Plan
    failed: Mapping[str, str]
    elsewhere: int
    report: Path


@dataclass(frozen=True)
class Progress:
    """How far the cells of a plan are in a folder. seconds: wall time that is left, roughly, with one worker; None
    where no cell of a model has run. flops: what is left, roughly; None where it is not known."""

    done: int
    partial: int
    missing: int
    failed: int
    seconds: float | None
    flops: float | None


def default_folder(study: StudyFile) -> Path:
    """Where a study goes if nothing is said: ``runs/NAME`` in the current directory."""
    return Path("runs") / study.name


def plan_study(study: StudyFile | str | Path | Mapping[str, Any], *, limit: int | None = None) -> Plan:
    """The plan of a study: a loaded one, a YAML file, the name of a shipped one, or plain data.

    limit: samples of each task, in place of the study's. Raises StudyError naming every problem.
    """
    if isinstance(study, str | Path):
        study = load_study(study)
    elif isinstance(study, Mapping):
        study = StudyFile.parse(study)
    if limit is not None:
        study = StudyFile.parse({**study.to_dict(), "limit": limit}, f"study {study.name!r}")
    return make_plan(study)


def progress(planned: Plan, folder: Path) -> Progress:
    """How far a study is; a folder that does not exist yet has nothing."""
    from vtprune.study.store import CellState

    nothing = CellState(0, finished=False, error=None)
    counts: dict[str, int] = dict.fromkeys(("done", "partial", "missing", "failed"), 0)
    left: dict[str, float] = {}
    store = _store(folder) if folder.is_dir() else None
    for cell in planned.cells:
        state = nothing if store is None else store.state(cell)
        counts[state.status] += 1
        if not state.finished:
            size = planned.sizes.get(cell.id)
            left[cell.id] = 1.0 if size is None else max(0.0, 1 - state.samples_done / size)
    speed = {} if store is None else seconds_per_sample(store, planned.cells)
    seconds = [
        left[cell.id] * planned.sizes[cell.id] * speed[cell.model]
        if cell.model in speed and cell.id in planned.sizes
        else None
        for cell in planned.cells
        if cell.id in left
    ]
    flops = [left[name] * planned.flops[name] if name in planned.flops else None for name in left]
    return Progress(**counts, seconds=_sum(seconds), flops=_sum(flops))


def made_otherwise(folder: Path) -> tuple[str, ...]:
    """A sentence for each distribution behind the results in a folder that is not as it was; see `Results.missing`."""
    from vtprune.study.makers import makers, missing

    if not (folder / "plan.json").is_file():
        return ()
    store = _store(folder)
    return missing(makers(cell.identity for cell in store.cells() if store.cell_file(cell).exists()))


def run_study(
    study: StudyFile | Plan | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    executor: Executor = "inline",
    workers: int = 1,
    limit: int | None = None,
    quiet: bool = False,
) -> Finished:
    """Run what is missing of a study, finalise its folder and write the report.

    study: as for `plan_study`, or a plan. out: the study's folder, `default_folder` if None. A run that is interrupted
    goes on where it stopped when it is started again. A cell that fails does not stop the others: see
    `Finished.failed`.
    Raises, before anything runs: StudyError naming every problem, VtpruneError if every variant was refused, and
    MissingExtraError without the libraries of the extra ``study`` (or Ray, for that executor). Later: StoreError if the
    folder cannot be written or holds another study, ExecutorError if workers cannot be started, and KeyboardInterrupt
    after Ctrl-C; what was answered before is kept.
    """
    from vtprune.study.executors import execute
    from vtprune.study.progress import StudyProgress

    for library in NEEDED:  # now, not after hours of work
        require(library, "study")
    planned = study if isinstance(study, Plan) else plan_study(study, limit=limit)
    where = Path(out) if out is not None else default_folder(planned.study)
    if not planned.cells:
        raise VtpruneError(f"study {planned.study.name!r} has no cell that could run; every one was refused")
    store = _store(where)
    store.write_plan(planned.to_dict(), planned.cells)
    outcome = execute(
        store,
        planned.cells,
        executor=executor,
        workers=workers,
        threads=planned.study.threads,
        listener=None if quiet else StudyProgress(store, planned.cells, Console(stderr=True)),
    )
    if outcome.interrupted:
        raise KeyboardInterrupt
    store.finalise()
    failed = {cell.name: outcome.failed[cell.id] for cell in planned.cells if cell.id in outcome.failed}
    return Finished(where, planned, failed, outcome.left, report_study(where))


def report_study(folder: str | Path) -> Path:
    """Write the report of a study's folder anew, and say where it is."""
    from vtprune.study.report import write_report

    where = Path(folder)
    if not (where / "plan.json").is_file():
        raise VtpruneError(f"{where} is no study folder (it has no plan.json); give the folder of `vtprune study run`")
    return write_report(where)


def _store(folder: Path) -> Store:
    from vtprune.study.store import Store

    return Store(folder)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
