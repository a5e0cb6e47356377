"""``vtprune validate``: check a recipe without a model."""

from __future__ import annotations

from typing import Annotated

import typer

from vtprune.cli.completion import recipe_name
from vtprune.cli.console import CliError, Debug, friendly

STUDY = {"models", "tasks", "recipes", "axes", "seeds"}
"""Fields of a study file that no recipe has."""


@friendly
def validate_recipe(
    recipe: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A recipe's YAML file, or a registered name.", autocompletion=recipe_name),
    ],
    debug: Debug = False,
) -> None:
    """Check a recipe and list every problem. Exit code 1 if it is not valid."""
    from vtprune.core.errors import RecipeError, UnknownNameError
    from vtprune.core.recipe import Recipe

    try:
        loaded = Recipe.load(recipe)
    except (RecipeError, UnknownNameError) as error:
        if _is_study(recipe):
            raise CliError(
                f"{recipe} looks like a study, not a recipe; use `vtprune study plan {recipe}`", 2
            ) from error
        raise
    count = len(loaded.stages)
    typer.echo(f"{recipe} is valid: {loaded.name!r}, {count} stage{'s' if count != 1 else ''}")
    typer.echo(f"hash {loaded.hash}")


def _is_study(name: str) -> bool:
    """Whether what is no valid recipe is a study that vtprune ships, or a file with the fields of one."""
    from vtprune.core.errors import VtpruneError
    from vtprune.core.recipe import read
    from vtprune.studies import shipped

    if name in shipped():
        return True
    try:
        data = read(name)
    except (VtpruneError, OSError, UnicodeDecodeError):
        return False
    return isinstance(data, dict) and "stages" not in data and len(STUDY & data.keys()) > 1
