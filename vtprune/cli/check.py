"""``vtprune check``: run the conformance checks over components and adapters."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtprune.cli.completion import check_name, checkable
from vtprune.cli.console import CliError, Debug, Json, friendly, note, print_json, stdout

if TYPE_CHECKING:
    from vtprune.testing.run import Outcome
    from vtprune.testing.targets import Target

MARKS = {
    "failed": "FAILED",
    "unexpected pass": "UNEXPECTED PASS",
    "expected failure": "expected failure",
    "not applicable": "not applicable",
    "passed": "passed",
}
ORDER = ("passed", "failed", "unexpected pass", "expected failure", "not applicable")


@dataclass(frozen=True)
class Checked:
    """What became of one target; ``fault`` where its instances could not be made."""

    target: Target
    outcomes: tuple[Outcome, ...]
    fault: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether anything counts against it."""
        return bool(self.fault) or any(outcome.is_fault for outcome in self.outcomes)


@friendly
def check_targets(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET...",
            help="A registered name, a distribution, module:Class, or the path of a .py file.",
            show_default=False,
            autocompletion=checkable,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Everything that vtprune ships.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run this check alone; repeatable.", autocompletion=check_name),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Say which checks there are, and run nothing.")] = False,
    slow: Annotated[
        bool, typer.Option("--slow/--fast", help="With the checks that run a tiny model, or without.")
    ] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every outcome, with reasons.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the result there, for `vtprune list` to show.", show_default=False),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the conformance checks over components and adapters: the promises that every plugin makes.

    Exit code 1 if a check fails, or one that was declared to fail passes; 2 for a name that nothing has.
    """
    found, names = _asked(targets or [], every, only or [], slow, listing)
    if listing:
        _list(found, names, as_json)
        return
    if record is not None and only:
        raise CliError("a record says what all checks found; leave --only out", 2)
    results = []
    with _progress(found) as begin:
        try:
            for target in found:
                begin(target)
                results.append(_checked(target, names, debug))
        except KeyboardInterrupt:
            if results and not as_json:
                _show(results, verbose)
            note(f"{len(results)} of {len(found)} were checked; nothing was recorded")
            raise
    if not any(result.outcomes or result.fault for result in results):
        raise CliError(f"none of the checks {', '.join(names)} concerns {', '.join(t.title for t in found)}", 2)
    if as_json:
        print_json([_data(result) for result in results])
    else:
        _show(results, verbose)
    if record is not None:
        _record(record, results, slow, every)
    if any(result.is_fault for result in results):
        raise typer.Exit(1)


def _asked(
    targets: Sequence[str], every: bool, only: Sequence[str], slow: bool, listing: bool
) -> tuple[list[Target], list[str]]:
    """Targets and names of checks; raises CliError of code 2 for a name that nothing has."""
    from vtprune.core.errors import UnknownNameError
    from vtprune.core.plugins import GROUP
    from vtprune.testing.targets import chosen, distribution, targets_of

    if not (targets or every or listing):
        raise CliError("nothing to check; name a TARGET, or give --all for everything that vtprune ships", 2)
    try:
        found = [target for text in targets for target in targets_of(text)]
        return [*found, *(distribution(GROUP) if every else [])], chosen(only, slow)
    except UnknownNameError as error:
        raise CliError(str(error), 2) from error


def _checked(target: Target, names: Sequence[str], debug: bool) -> Checked:
    try:
        return Checked(target, target.run(names))
    except Exception as error:  # of the plugin: it may be anything
        if debug:
            raise
        return Checked(target, (), f"{type(error).__name__}: {error}")


def _data(result: Checked) -> dict[str, Any]:
    from vtprune.testing.run import described

    entry = result.target.entry
    return {
        "target": result.target.title,
        "kind": result.target.kind,
        "name": entry.name if entry else None,
        "fault": result.fault or None,
        "outcomes": [
            {"check": o.check.name, "component": described(o.component), "status": o.status, "detail": o.detail}
            for o in result.outcomes
        ],
    }


def _show(results: Sequence[Checked], verbose: bool) -> None:
    """Numbers for each target, then every fault and expected failure, or with ``verbose`` every outcome.

    `vtprune describe` counts a check once, whatever it ran on, hence both factors.
    """
    console = stdout()
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what", no_wrap=True)
    for title in ("checks", "examples", *ORDER):
        table.add_column(title, justify="right")
    for result in results:
        checks = {outcome.check.name for outcome in result.outcomes}
        examples = {id(outcome.component) for outcome in result.outcomes}
        counts = [sum(outcome.status == status for outcome in result.outcomes) for status in ORDER]
        numbers = map(_number, (len(checks), len(examples), *counts))
        table.add_row(result.target.title + (", could not be made" if result.fault else ""), *numbers)
    console.print(table)
    console.print("Each check is run on each example; from 'passed' on, such runs are counted.")
    for result in results:
        shown = [o for o in result.outcomes if verbose or o.is_fault or o.status == "expected failure"]
        if shown or result.fault:
            console.print(f"\n{result.target.title}", style="bold")
        if result.fault:
            console.print(f"  {MARKS['failed']}: {result.fault}", soft_wrap=True)
        for alike in _alike(shown):
            _line(alike[0])
            if others := [outcome.check.name for outcome in alike[1:]]:
                stdout().print(f"    {len(others)} more for the same reason: {', '.join(others)}", soft_wrap=True)


def _alike(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Outcomes by what was raised: one error in a component fails most of its checks in the same words."""
    groups: dict[Any, list[Outcome]] = {}
    for number, outcome in enumerate(outcomes):
        raised = outcome.status == "failed" and outcome.detail.startswith("raised ")
        groups.setdefault((id(outcome.component), outcome.detail) if raised else number, []).append(outcome)
    return list(groups.values())


def _number(count: int) -> str:
    return str(count) if count else "-"


def _line(outcome: Outcome) -> None:
    from vtprune.testing.run import described

    console = stdout()
    said = outcome.check.summary if outcome.status == "passed" else outcome.detail
    console.print(f"  {MARKS[outcome.status]} {outcome.check.name}, {described(outcome.component)}", soft_wrap=True)
    if outcome.is_fault:
        console.print(f"    must hold: {outcome.check.summary}", soft_wrap=True)
    for line in said.splitlines():
        console.print(f"    {line}", soft_wrap=True)


def _list(targets: Sequence[Target], names: Sequence[str], as_json: bool) -> None:
    """The checks that would be run."""
    from vtprune.testing.checking import all_checks

    checks = [check for name, check in all_checks().items() if name in names]
    if targets:
        kinds = {target.kind for target in targets}
        checks = [check for check in checks if kinds & set(check.kinds)]
    if as_json:
        print_json([{"name": c.name, "kinds": c.kinds, "in_model": c.slow, "summary": c.summary} for c in checks])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", overflow="fold")
    table.add_column("of")
    table.add_column("what must hold")
    for check in checks:
        table.add_row(check.name, ", ".join(check.kinds), check.summary + (" (in a model)" if check.slow else ""))
    stdout().print(table)


def _record(path: Path, results: Sequence[Checked], in_model: bool, whole: bool) -> None:
    from vtprune.core.conformance import record_path
    from vtprune.testing.recording import entry_of, write_record

    known = [(result.target.entry, result) for result in results if result.target.entry is not None]
    if not known:
        raise CliError("nothing to record: only what is registered has a record, under its name", 2)
    if unmade := [result.target.title for _, result in known if result.fault]:
        raise CliError(f"nothing was recorded, since {', '.join(unmade)} could not be made")
    try:
        write_record(path, [(entry, entry_of(entry, r.outcomes, in_model)) for entry, r in known], whole)
    except ValueError as error:
        raise CliError(str(error)) from error
    note(f"written to {path}")
    for place in {record_path(entry) for entry, _ in known} - {None, path.resolve()}:
        note(f"`vtprune list` reads {place}")


@contextmanager
def _progress(targets: Sequence[Target]) -> Iterator[Any]:
    """What is being checked, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda target: None
        return
    from rich.console import Console

    with Console(stderr=True).status("checking") as line:
        yield lambda target: line.update(f"checking {target.title} ({targets.index(target) + 1} of {len(targets)})")
