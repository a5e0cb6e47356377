"""``vtprune study``: plan, run and report an ablation study."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtprune.cli.completion import study_name
from vtprune.cli.console import Debug, Json, friendly, note, print_json, stdout
from vtprune.study.names import EXECUTORS

if TYPE_CHECKING:
    from vtprune.study.plan import Plan
    from vtprune.study.run import Finished

app = typer.Typer(
    help="Ablation studies: plan, run, resume and report. To write one, start from a copy of a shipped one: "
    "vtprune study show quickstart > mine.yaml",
    no_args_is_help=True,
)

Executor = Enum("Executor", {name: name for name in EXECUTORS}, type=str)  # type: ignore[misc]
INLINE = Executor("inline")
MERGED_SHOWN = 3
Study = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A study's YAML file, or the name of a shipped one.", autocompletion=study_name
    ),
]
Out = Annotated[Path | None, typer.Option(help="The study's folder; runs/NAME if left out.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=1, help="Samples of each task, in place of the study's.")]


@app.command("list")
@friendly
def list_studies(as_json: Json = False, debug: Debug = False) -> None:
    """List the studies that come with vtprune."""
    from vtprune.studies import shipped

    studies = shipped()
    if as_json:
        print_json([{"name": name, "description": text} for name, text in studies.items()])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it shows")
    for name, text in studies.items():
        table.add_row(name, text)
    stdout().print(table)


@app.command("show")
@friendly
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A study that comes with vtprune.", autocompletion=study_name)
    ],
    debug: Debug = False,
) -> None:
    """Print the file of a study that comes with vtprune, to read or to start from; where it lies goes to stderr."""
    from vtprune.studies import path

    found = path(name)
    note(str(found))
    typer.echo(found.read_text(encoding="utf-8"), nl=False)


@app.command("plan")
@friendly
def plan(study: Study, out: Out = None, limit: Limit = None, as_json: Json = False, debug: Debug = False) -> None:
    """Say what a study would run, what is done already, what is refused and why, and what it would cost."""
    from vtprune.study.power import too_few
    from vtprune.study.run import default_folder, plan_study, progress

    planned = plan_study(study, limit=limit)
    folder = out or default_folder(planned.study)
    _changes(folder)
    state = progress(planned, folder)
    if as_json:
        data = {key: value for key, value in planned.to_dict().items() if key in ("name", "refused", "merged", "notes")}
        data["notes"] = [*data["notes"], *too_few(planned)]
        cells = [{"id": cell.id, "name": cell.name} for cell in planned.cells]
        print_json({**data, "folder": str(folder), "cells": cells, "samples": planned.samples, **asdict(state)})
        return
    from vtprune.study.listing import cost_line, plan_table, refusals

    console = stdout()
    console.print(plan_table(planned))
    console.print(
        f"{len(planned.cells)} cells in {folder}: {state.done} done, {state.partial} begun, {state.missing} missing, "
        f"{state.failed} failed"
    )
    console.print(cost_line(state))
    for line in refusals(planned.refused):
        console.print(line)
    _notes(planned)


@app.command("run")
@friendly
def run(
    study: Study,
    out: Out = None,
    executor: Annotated[Executor, typer.Option(help="Where cells run: here, in several processes, on Ray.")] = INLINE,
    workers: Annotated[int, typer.Option(min=1, help="Processes or actors.")] = 1,
    limit: Limit = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
    debug: Debug = False,
) -> None:
    """Run what is missing of a study, and report. Exit code 1 if a cell failed or could not run."""
    from vtprune.study.listing import refusals
    from vtprune.study.run import default_folder, plan_study, run_study

    planned = plan_study(study, limit=limit)
    folder = out or default_folder(planned.study)
    _changes(folder)
    if not quiet:
        _notes(planned)
    for line in refusals([refusal for refusal in planned.refused if not (quiet and refusal.expected)]):
        note(line)
    try:
        finished = run_study(planned, folder, executor=executor.value, workers=workers, quiet=quiet)
    except KeyboardInterrupt:
        given = {"out": out, "executor": None if executor is INLINE else executor.value, "limit": limit}
        given["workers"] = None if workers == 1 else workers
        options = (f" --{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)
        again = f"vtprune study run {shlex.quote(study)}{''.join(options)}{' --quiet' if quiet else ''}"
        typer.echo(f"interrupted; what is answered is kept in {folder}. To go on: {again}", err=True)
        raise typer.Exit(130) from None
    if not quiet:
        _print_table(folder)
    typer.echo(f"report: {finished.report}")
    _settle(finished)


@app.command("report")
@friendly
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study, finished or not.")],
    debug: Debug = False,
) -> None:
    """Write the report of a study's folder anew."""
    from vtprune.study.run import made_otherwise, report_study

    for line in made_otherwise(folder):
        note(line)
    typer.echo(f"report: {report_study(folder)}")


def _changes(folder: Path) -> None:
    """Say which of a folder's results come from other versions, and are therefore not those of a new plan."""
    from vtprune.study.run import made_otherwise

    for line in made_otherwise(folder):
        note(f"{line}. They stay in {folder}; what depends on it is run again")


def _notes(planned: Plan) -> None:
    from vtprune.study.power import too_few

    for merged in planned.merged[:MERGED_SHOWN]:
        note(str(merged))
    if (more := len(planned.merged) - MERGED_SHOWN) > 0:
        note(f"and {more} more are the same as another; `vtprune study plan --json` lists them all")
    for line in (*planned.notes, *too_few(planned)):
        note(line)


def _print_table(folder: Path) -> None:
    from vtprune.study.results import Results
    from vtprune.study.statistics import summarise
    from vtprune.study.tables import accuracy_table

    stdout(markup=True).print(accuracy_table(summarise(Results.load(folder))))


def _settle(finished: Finished) -> None:
    """Say what is not done; exit code 1 if a cell failed, or something that was asked for by name was refused."""
    from vtprune.study.listing import failures

    if finished.elsewhere:
        note(f"{finished.elsewhere} cells are being run by another process; run `vtprune study report` when it is done")
    for line in failures(finished.failed):
        typer.echo(line, err=True)
    refused = [refusal for refusal in finished.plan.refused if not refusal.expected]
    parts = []
    if finished.failed:
        errors = finished.folder / "errors"
        parts.append(f"{len(finished.failed)} of {len(finished.plan.cells)} cells failed; tracebacks are in {errors}")
    if refused:
        names = ", ".join(dict.fromkeys(refusal.what for refusal in refused))
        parts.append(f"refused, for the reasons above: {names}")
    if parts:
        typer.echo(f"error: {'; '.join(parts)}", err=True)
        raise typer.Exit(1)
