"""``vtprune list``: everything that is registered."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vtprune.cli.completion import distribution_name, kind_name
from vtprune.cli.console import CliError, Debug, Json, friendly, note, print_json, stdout
from vtprune.core.plugins import GROUP, failures, plugins, plugins_problems, registry
from vtprune.core.registry import KINDS

if TYPE_CHECKING:
    from vtprune.core.registry import Registration


@friendly
def list_names(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND",
            help="Some kinds only, e.g. scorers (or scorer).",
            show_default=False,
            autocompletion=kind_name,
        ),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(metavar="DIST", help="Of one distribution only.", autocompletion=distribution_name),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List scorers, allocators, selectors, reducers, adapters, recipes and tasks, with where they come from and how
    they fared in the conformance suite.
    """
    wanted = {_kind(text) for text in kinds or ()} or set(KINDS)
    if origin is not None:
        origin = _known(origin)
    entries = [entry for entry in registry().entries() if entry.kind in wanted and origin in (None, entry.origin)]
    for failure in failures():
        if origin in (None, failure.distribution):
            note(f"{str(failure).splitlines()[0]}; its names are missing here. See `vtprune plugins`")
    for problem in plugins_problems():
        note(problem)
    if as_json:
        print_json([{**asdict(entry), "conformance": _conformance(entry) or None} for entry in entries])
        return
    _show(entries)


def _kind(text: str) -> str:
    """A kind written in the singular or the plural; raises CliError for what is none."""
    from vtprune.core.errors import did_you_mean

    if (kind := text.removesuffix("s")) not in KINDS:
        hint = did_you_mean(text, (f"{one}s" for one in KINDS))
        raise CliError(f"{text!r} is no kind of what is registered.{hint}", 2)
    return kind


def _known(distribution: str) -> str:
    """A distribution's canonical name; raises CliError if it has no plugin."""
    from vtprune.core.errors import did_you_mean
    from vtprune.core.plugins.plugin import canonical

    known = {plugin.distribution for plugin in plugins()}
    if (name := canonical(distribution)) not in known:
        raise CliError(f"no installed plugin is of the distribution {name!r}.{did_you_mean(name, known)}", 2)
    return name


def _conformance(entry: Registration) -> str:
    """What the conformance suite found; nothing for a recipe, which has no checks of its own."""
    from vtprune.core.conformance import status

    return "" if entry.kind == "recipe" else status(entry).state


def _show(entries: list[Registration]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it does")
    found = [_conformance(entry).replace("passed", "ok") for entry in entries]
    if any(found):
        table.add_column("conformance", no_wrap=True)
    for entry, text in zip(entries, found, strict=True):
        table.add_row(entry.kind, entry.name, _line(entry), *([text] if any(found) else []))
    stdout().print(table)


def _line(entry: Registration) -> str:
    """Summary, paper and, for a third party, the distribution."""
    origin = f"from {entry.origin} {entry.version}" if entry.origin != GROUP else None
    extra = ", ".join(part for part in (entry.paper, origin) if part)
    return f"{entry.summary} ({extra})" if extra else entry.summary
