"""``vtprune new-plugin``: the package of a plugin, ready to be tested."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vtprune.cli.console import Debug, friendly, note
from vtprune.core.registry import STAGE_KINDS

PartKind = Enum("PartKind", {kind: kind for kind in STAGE_KINDS}, type=str)  # type: ignore[misc]


@friendly
def new_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the distribution, as on an index: vtprune-entropy, acme-tools.")
    ],
    into: Annotated[Path, typer.Option("--into", help="The folder in which the package's own is made.")] = Path("."),
    package: Annotated[
        str | None,
        typer.Option("--package", metavar="MODULE", help="The Python package; by default the name with underscores."),
    ] = None,
    kinds: Annotated[
        list[PartKind] | None,
        typer.Option(
            "--kind",
            help="What it shall hold; may be repeated. Left out, a scorer and a selector. For an adapter see "
            "`vtprune adapters inspect --skeleton`, for a task docs/tasks.md.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that exists; files of the same names are replaced.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a package with components, a recipe and tests, which pass as they are; then edit it."""
    from vtprune import __version__
    from vtprune.plugin import API
    from vtprune.scaffold.names import canonical, resolve
    from vtprune.scaffold.place import place
    from vtprune.scaffold.render import DEFAULT_KINDS, PARTS, render

    folder = into / canonical(name)
    names = resolve(name, package, folder if force else None)
    if names.distribution != name:
        note(f"{name!r} is called {names.distribution!r} by every index, and here")
    chosen = [kind.value for kind in kinds] if kinds else DEFAULT_KINDS
    files = render(names, chosen, __version__, API)
    for replaced in place(files, folder, force=force):
        note(f"replaced {replaced}")
    typer.echo(f"{folder} has {len(files)} files:")
    for path in files:
        typer.echo(f"  {path}")
    recipe = names.registered(names.short)
    example = names.registered(next(part.name for kind, part in PARTS.items() if kind in chosen))
    typer.echo(
        f"""
Next:
  cd {shlex.quote(str(folder))}
  pip install -e '.[test]'
  pytest
  vtprune check {names.distribution}
  vtprune describe {example}
  vtprune run --recipe {recipe} --max-new-tokens 8
Then put your own method into {names.module}/. To publish: choose a license in pyproject.toml, and
  python -m build
  twine upload dist/*"""
    )
