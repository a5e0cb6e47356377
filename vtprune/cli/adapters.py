"""``vtprune adapters``: which model families are known, and what is known of one model."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtprune.cli.completion import model_name
from vtprune.cli.console import CliError, Debug, Json, friendly, note, print_json, stdout
from vtprune.core.errors import PluginError
from vtprune.core.plugins import failures, registry

if TYPE_CHECKING:
    from vtprune.core.registry import Registration
    from vtprune.inspection import Inspection

app = typer.Typer(help="Model families: list them, or inspect one model.", no_args_is_help=True)


@app.command("list")
@friendly
def list_adapters(as_json: Json = False, debug: Debug = False) -> None:
    """List the adapters with their model classes. Other models may still be recognised: see `inspect`."""
    for failure in failures():
        note(f"{str(failure).splitlines()[0]}; its names are missing here. See `vtprune plugins`")
    rows: list[dict[str, Any]] = []
    for entry in registry().entries("adapter"):
        try:
            classes, refused = _stated(entry)
        except PluginError as error:
            note(f"{error}; it is missing here")
            continue
        rows.append(
            {
                "name": entry.name,
                "architectures": classes,
                "summary": entry.summary,
                "origin": entry.origin,
                "unsupported": refused,
            }
        )
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it serves")
    table.add_column("model classes", overflow="fold")
    for row in rows:
        refused = f" (refused: {row['unsupported']})" if row["unsupported"] else ""
        table.add_row(row["name"], f"{row['summary']}{refused}", "\n".join(row["architectures"]))
    stdout().print(table)


def _stated(entry: Registration) -> tuple[tuple[str, ...], str | None]:
    """An adapter's model classes, and why it is refused if it is: from its source or, where that does not say, by
    importing it. Raises PluginError if it cannot be imported."""
    from vtprune.cli.source.adapter import read_adapter
    from vtprune.core.sources import UnreadableError

    try:
        read = read_adapter(entry.target)
    except UnreadableError:
        read = None
    if read is not None and read.complete and isinstance(classes := read.get("architectures"), tuple):
        return classes, read.get("unsupported", read.fields["unsupported"].text)
    found = registry().load("adapter", entry.name)
    return found.architectures, found.unsupported


@app.command("inspect")
@friendly
def inspect(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A testbed name, a local folder, or a hub id.", autocompletion=model_name),
    ],
    skeleton: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the start of an adapter there.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which adapter serves a model, where its sites are, what is provided, and what is missing and why.

    Only the configuration is read: no weights are needed.
    """
    if skeleton is not None and skeleton.exists() and not force:
        raise CliError(f"{skeleton} exists already; name another file, or give --force to overwrite it", 2)
    from vtprune.inspection import inspect_model
    from vtprune.loading import config_of, without_weights

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = config_of(model)
        empty = without_weights(config)
        found = inspect_model(empty)
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)
    if skeleton is not None:
        from vtprune.cli.skeleton import skeleton_of

        skeleton.write_text(skeleton_of(empty), encoding="utf-8")
        note(f"the start of an adapter was written to {skeleton}; docs/adapters.md says how to go on")


def _show(found: Inspection) -> None:
    from rich.table import Table

    console = stdout()
    console.print(f"{found.model}: {'can be pruned' if found.adapter else 'cannot be pruned'}", style="bold")
    console.print(f"adapter: {found.origin}", soft_wrap=True)
    for title, rows in (
        ("modules", found.modules),
        ("sites", found.sites),
        ("not provided", found.withheld),
    ):
        if rows:
            table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for label, text in rows.items():
                table.add_row(label, text)
            console.print(f"\n{title}")
            console.print(table)
        if title == "sites" and found.provided:
            console.print(f"\nprovided: {', '.join(found.provided)}", soft_wrap=True)
    for title, lines in (("missing", found.missing), ("notes", found.notes)):
        if lines:
            console.print(f"\n{title}")
            for line in lines:
                console.print(f"  - {line}", soft_wrap=True)
