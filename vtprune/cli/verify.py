"""``vtprune verify``: run the matrix of families, sites and modes on tiny models, or show what was found before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtprune.cli.completion import family_name, mode_name, subject_name
from vtprune.cli.console import CliError, Debug, Json, friendly, note, stdout

if TYPE_CHECKING:
    from vtprune.verify.cells import Cell, Group
    from vtprune.verify.ledger import Ledger

FAILED = 3
SAVED_EVERY = 20


@friendly
def verify_families(
    family: Annotated[
        list[str] | None,
        typer.Option("--family", "-f", help="A family or variant; repeatable.", autocompletion=family_name),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A tiny model of your own, module:function; repeatable. See docs/verification.md."),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="A site or a method's name; repeatable.", autocompletion=subject_name),
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option("--mode", help="A way of calling; repeatable.", autocompletion=mode_name)
    ] = None,
    attention: Annotated[list[str] | None, typer.Option(help="sdpa or eager; left out, both.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Say what would be run, and run nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The ledger to write or to merge into; left out, your own, which vtprune reads.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    transformers_version: Annotated[
        str | None, typer.Option(help="Show what is stored of this version, and run nothing.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Verify model families: keeping all tokens, and removing half of them, at every site and in every mode.

    Exit code 3 if a cell fails.
    """
    from importlib.metadata import version

    from vtprune.verify.document import section
    from vtprune.verify.folders import file_name, find, own_folder
    from vtprune.verify.ledger import Ledger

    if transformers_version is not None:
        stored = find(transformers_version)
        typer.echo(stored.to_json() if as_json else section(stored), nl=False)
        return
    from vtprune.verify.external import load
    from vtprune.verify.run import families, plan, run
    from vtprune.verify.run import note as enter

    variants = [] if model and not family else families(family or [])
    groups = plan([*variants, *(model or [])], site or [], mode or [], attention or [])
    if listing:
        _list(groups)
        return
    for target in model or []:
        load(target)
    ledger = Ledger(version("transformers"))
    path = out or own_folder() / file_name(ledger.transformers)
    _check_target(path, ledger)
    with _progress(sum(len(group.pairs) for group in groups)) as seen:
        for cell, outcome in run(groups, workers):
            enter(ledger, cell, outcome)
            seen(cell)
            if sum(1 for _ in ledger.cells()) % SAVED_EVERY == 0:
                _store(ledger, path)
    _store(ledger, path)
    typer.echo(ledger.to_json() if as_json else _summary(ledger), nl=False)
    note(f"written to {path}")
    if any(outcome.status == "fail" for _, outcome in ledger.cells()):
        raise CliError("some cells failed; they are listed above", FAILED)


def _check_target(path: Path, ledger: Ledger) -> None:
    """Refuse before the run what cannot be merged into after it."""
    from vtprune.verify.ledger import read

    if path.is_file():
        read(path).merge(ledger)


def _store(ledger: Ledger, path: Path) -> None:
    """Merge a run into the file."""
    from vtprune.verify.ledger import read, write

    whole = ledger
    if path.is_file():
        whole = read(path)
        for line in whole.merge(ledger):
            note(line)
    if ledger.blocks:
        write(whole, path)


def _summary(ledger: Ledger) -> str:
    """One line for each status, and every cell that failed."""
    counts: dict[str, int] = {}
    lines = []
    for cell, outcome in ledger.cells():
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
        if outcome.status == "fail":
            lines.append(f"FAIL {cell.variant} {cell.attention} {cell.mode} {cell.subject}: {outcome.reason}\n")
    total = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return "".join([*lines, f"transformers {ledger.transformers}: {total}\n"])


def _list(groups: list[Group]) -> None:
    """What is crossed, in words and numbers."""
    from vtprune.verify.modes import MODES
    from vtprune.verify.subjects import SUBJECTS

    console = stdout()
    console.print("tiny models", style="bold")
    for variant in dict.fromkeys(group.variant for group in groups):
        console.print(f"  {variant}")
    for attention in dict.fromkeys(group.attention for group in groups):
        pairs = next(group.pairs for group in groups if group.attention == attention)
        console.print(f"{attention} attention: sites and methods, each with the modes it is crossed with", style="bold")
        for name in (name for name in SUBJECTS if any(subject == name for _, subject in pairs)):
            console.print(f"  {name}: {', '.join(mode for mode, subject in pairs if subject == name)}", soft_wrap=True)
    console.print("modes", style="bold")
    run = {mode for group in groups for mode, _ in group.pairs}
    for each in MODES.values():
        if each.name in run or each.costly:
            left = " (takes minutes; only run where named with --mode)" if each.costly else ""
            console.print(f"  {each.name}: {each.summary}{left}", soft_wrap=True)
    console.print(f"{sum(len(group.pairs) for group in groups)} cells")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Cell], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda cell: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()

    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=total)
        yield lambda cell: bar.update(task, advance=1, description=f"{cell.variant} {cell.mode}")


__all__ = ["verify_families"]
