"""``vtprune adapters``: which model families are known, and what is known of one model."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vtprune.cli.console import CliError, Debug, Json, friendly, note, print_json, stdout
from vtprune.core.plugins import failures, registry

if TYPE_CHECKING:
    from vtprune.inspection import Inspection

app = typer.Typer(help="Model families: list them, or inspect one model.", no_args_is_help=True)


@app.command("list")
@friendly
def list_adapters(as_json: Json = False, debug: Debug = False) -> None:
    """List the adapters with their model classes. Other models may still be recognised: see `inspect`."""
    entries = list(registry().entries("adapter"))
    for failure in failures():
        note(f"{failure}; its names are missing here")
    every = {entry.name: registry().load("adapter", entry.name) for entry in entries}
    rows = [
        {
            "name": entry.name,
            "architectures": every[entry.name].architectures,
            "summary": entry.summary,
            "origin": entry.origin,
            "unsupported": every[entry.name].unsupported,
        }
        for entry in entries
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it serves")
    table.add_column("model classes", overflow="fold")
    for row in rows:
        refused = f" (refused: {row['unsupported']})" if row["unsupported"] else ""
        table.add_row(row["name"], f"{row['summary']}{refused}", "\n".join(row["architectures"]))
    stdout().print(table)


@app.command("inspect")
@friendly
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A testbed name, a local folder, or a hub id.")],
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
    from vtprune.inspection import config_of, inspect_model, without_weights

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
