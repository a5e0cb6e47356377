"""``vtprune validate``: check a recipe without a model."""

from __future__ import annotations

from typing import Annotated

import typer

from vtprune.cli.completion import recipe_name
from vtprune.cli.console import Debug, friendly


@friendly
def validate_recipe(
    recipe: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A recipe's YAML file, or a registered name.", autocompletion=recipe_name),
    ],
    debug: Debug = False,
) -> None:
    """Check a recipe and list every problem. Exit code 1 if it is not valid."""
    from vtprune.core.recipe import Recipe

    loaded = Recipe.load(recipe)
    count = len(loaded.stages)
    typer.echo(f"{recipe} is valid: {loaded.name!r}, {count} stage{'s' if count != 1 else ''}")
    typer.echo(f"hash {loaded.hash}")
