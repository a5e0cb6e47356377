"""``vtprune list``: everything that is registered."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Annotated

import typer
from rich.table import Table

from vtprune.cli.console import Debug, Json, friendly, note, print_json, stdout
from vtprune.core.plugins import GROUP, failures, registry
from vtprune.core.registry import KINDS, Registration

Plural = Enum("Plural", {f"{kind}s": f"{kind}s" for kind in KINDS}, type=str)  # type: ignore[misc]


@friendly
def list_names(
    kind: Annotated[Plural | None, typer.Argument(help="One kind only.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List scorers, allocators, selectors, reducers, adapters and recipes, with where they come from."""
    wanted = kind.value.removesuffix("s") if kind else None
    entries = list(registry().entries(wanted))
    for failure in failures():
        note(f"{failure}; its names are missing here")
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it does")
    for entry in entries:
        table.add_row(entry.kind, entry.name, _line(entry))
    stdout().print(table)


def _line(entry: Registration) -> str:
    """Summary, paper and, for a third party, the distribution."""
    origin = f"from {entry.origin} {entry.version}" if entry.origin != GROUP else None
    extra = ", ".join(part for part in (entry.paper, origin) if part)
    return f"{entry.summary} ({extra})" if extra else entry.summary
