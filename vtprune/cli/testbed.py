"""``vtprune testbed``: look at the testbed's scenes and models."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from vtprune.cli.console import Debug, Json, friendly, note, print_json, stdout

app = typer.Typer(help="The testbed: made-up scenes, questions and trained miniature models.", no_args_is_help=True)

Level = Enum("Level", {name: name for name in ("easy", "medium", "hard")}, type=str)  # type: ignore[misc]
Variant = Enum("Variant", {name: name for name in ("image", "pair", "video")}, type=str)  # type: ignore[misc]
_KINDS = ("image/easy", "image/medium", "image/hard", "pair", "video")


@app.command("show")
@friendly
def show(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("testbed.png"),
    level: Annotated[Level, typer.Option(help="How many digits and how much clutter (image only).")] = Level.medium,  # type: ignore[attr-defined]
    variant: Annotated[Variant, typer.Option(help="One scene, a pair, or a video.")] = Variant.image,  # type: ignore[attr-defined]
    seed: Annotated[int, typer.Option(min=0, help="Which scenes.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many scenes.")] = 3,
    debug: Debug = False,
) -> None:
    """Draw scenes with questions, answers and the regions in which the answers can be seen."""
    from pydantic import ValidationError

    from vtprune.cli.console import CliError
    from vtprune.testbed.show import draw
    from vtprune.testbed.tasks import Testbed

    try:
        task = Testbed(variant=variant.value, level=level.value, seed=seed, scenes=count)
    except ValidationError as error:
        raise CliError("\n".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors()), 2) from error
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise CliError(f"{out} is not the name of a picture; use a name that ends in .png", 2)
    if not (folder := out.resolve().parent).is_dir():
        raise CliError(f"--out {out}: the directory {folder} does not exist", 2)
    draw(task, count).save(out)
    note(f"{count} scene{'s' if count != 1 else ''} drawn to {out}")


@app.command("list")
@friendly
def list_models(as_json: Json = False, debug: Debug = False) -> None:
    """List the trained models and how many of the testbed's questions they answer without pruning, in per cent."""
    from vtprune.testbed.models import folder, names

    every = {name: json.loads((folder(name) / "metrics.json").read_text(encoding="utf-8")) for name in names()}
    if as_json:
        print_json(every)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for column in ("parameters", "MB", "core", "hop", *(kind.removeprefix("image/") for kind in _KINDS)):
        table.add_column(column, justify="right")
    for name, metrics in every.items():
        runs: dict[str, Any] = metrics["runs"]
        groups = (runs["image/medium"]["groups"][group] for group in ("core", "hop"))
        shares = [entry["accuracy"] for entry in (*groups, *(runs[kind]["all"] for kind in _KINDS))]
        size = (f"{metrics['parameters']:,}", f"{metrics['bytes'] / 1e6:.1f}")
        table.add_row(f"testbed/{name}", *size, *(f"{share:.1%}".removesuffix("%") for share in shares))
    stdout().print(table)
    note("core and hop are groups of question types at level medium; docs/testbed.md has all types and intervals")
