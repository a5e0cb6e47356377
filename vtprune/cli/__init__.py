"""The ``vtprune`` command. Listing, describing by name and ``--help`` import neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vtprune.cli.adapters import app as adapters_app
from vtprune.cli.check import check_targets
from vtprune.cli.describe import describe_name
from vtprune.cli.listing import list_names
from vtprune.cli.new_plugin import new_plugin
from vtprune.cli.plugins import list_plugins
from vtprune.cli.run import run_recipe
from vtprune.cli.study import app as study_app
from vtprune.cli.testbed import app as testbed_app
from vtprune.cli.validate import validate_recipe
from vtprune.cli.verify import verify_families


class Group(TyperGroup):
    """The commands, with messages on wrong values in typer's words alone: pydantic puts two of its own before them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="vtprune",
    cls=Group,
    help="Vision-token pruning for large vision-language models, as recipes of plugins.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(list_names)
app.command("describe")(describe_name)
app.command("plugins")(list_plugins)
app.command("new-plugin")(new_plugin)
app.command("check")(check_targets)
app.command("validate")(validate_recipe)
app.command("run")(run_recipe)
app.command("verify")(verify_families)
app.add_typer(adapters_app, name="adapters")
app.add_typer(study_app, name="study")
app.add_typer(testbed_app, name="testbed")


def _version(wanted: bool) -> None:
    if wanted:
        from vtprune import __version__

        typer.echo(f"vtprune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a fault in what was asked, 2 wrong usage or unknown name, 130 interrupted."""
    app()


__all__ = ["app", "main"]
