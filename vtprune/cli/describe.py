"""``vtprune describe``: one component, adapter or recipe in full."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from vtprune.cli.console import CliError, Debug, friendly, stdout
from vtprune.core.errors import did_you_mean
from vtprune.core.plugins import registry
from vtprune.core.registry import Registration

if TYPE_CHECKING:
    from vtprune.core.adapter import Adapter
    from vtprune.core.component import Component

LEFT, FURTHER_LEFT = (0, 0, 0, 2), (0, 0, 0, 6)


@friendly
def describe_name(
    name: Annotated[str, typer.Argument(help="A registered name, as `vtprune list` shows it.")],
    debug: Debug = False,
) -> None:
    """Show a component's parameters and needs, an adapter's modules, or a recipe. A name of several kinds shows all."""
    found = [entry for entry in registry().entries() if entry.name == name]
    if not found:
        names = {entry.name for entry in registry().entries()}
        raise CliError(f"nothing is registered as {name!r}.{did_you_mean(name, names)}", code=2)
    console = stdout()
    for position, entry in enumerate(found):
        if position:
            console.rule()
        console.print(Text.assemble((f"{entry.kind} {entry.name}", "bold"), f": {entry.summary}"))
        paper = f", paper {entry.paper}" if entry.paper else ""
        console.print(f"from {entry.origin} {entry.version} ({entry.target}){paper}")
        console.print()
        if entry.kind == "recipe":
            _recipe(entry)
        elif entry.kind == "adapter":
            _adapter(registry().load("adapter", name))
        else:
            _component(registry().load(entry.kind, name))


def split_header(text: str) -> tuple[str, str]:
    """A YAML file's leading comment (without its ``#`` signs) and the rest."""
    lines = text.splitlines()
    count = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    comment = [line.removeprefix("#").removeprefix(" ") for line in lines[:count]]
    return "\n".join(comment).strip(), "\n".join(lines[count:]).strip()


def _recipe(entry: Registration) -> None:
    package, _, file = entry.target.partition(":")
    comment, body = split_header(files(package).joinpath(file).read_text(encoding="utf-8"))
    if comment:
        stdout().print(comment, soft_wrap=True)
        stdout().print()
    stdout().print(Syntax(body, "yaml", background_color="default").highlight(body), soft_wrap=True, end="")


def _adapter(adapter: Adapter) -> None:
    rows = {
        "model classes": ", ".join(adapter.architectures),
        "provides": ", ".join(sorted(adapter.provides)),
        "inputs": ", ".join(f"{kind} ({attribute})" for kind, attribute in adapter.placeholders.items()),
        "language model": adapter.language_model,
        "vision tower": adapter.vision_tower,
        "vision layers": f"{adapter.vision_layers}, with their attention in {adapter.vision_attention}",
        "projector": adapter.projector,
        "sites inside the tower": "no" if adapter.tower_depth is None else "vision.layers[I]",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for label, value in rows.items():
        table.add_row(label, value)
    stdout().print(table)


def _component(component: type[Component]) -> None:
    from vtprune.cli.parameters import documentation, facts, parameters_of

    console = stdout()
    prose, meanings = documentation(component)
    console.print(prose or "no documentation", soft_wrap=True)
    console.print()
    found = parameters_of(component, meanings)
    console.print("parameters:" if found else "no parameters")
    for parameter in found:
        console.print(
            Padding(
                Text.assemble((parameter.name, "bold"), f": {parameter.type}, {parameter.default}"), LEFT, expand=False
            )
        )
        if parameter.meaning:
            console.print(Padding(parameter.meaning, FURTHER_LEFT, expand=False))
    console.print()
    for label, value in facts(component).items():
        console.print(f"{label}: {value}")
