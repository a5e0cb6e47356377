"""``vtprune describe``: one component, adapter, recipe or task in full, without importing it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtprune.cli.completion import any_name
from vtprune.cli.console import CliError, Debug, friendly, note, stdout

if TYPE_CHECKING:
    from vtprune.cli.source.words import Parameter
    from vtprune.core.registry import Registration

LEFT, FURTHER_LEFT = (0, 0, 0, 2), (0, 0, 0, 6)
LIVE = "vtprune describe {name} --live"


@friendly
def describe_name(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A registered name, as `vtprune list` shows it.", autocompletion=any_name),
    ],
    live: Annotated[bool, typer.Option("--live", help="Import it, and show what running it tells.")] = False,
    debug: Debug = False,
) -> None:
    """Show a component's parameters and needs, an adapter's modules, a recipe or a task.

    Its source is read, not run. A name of several kinds shows all.
    """
    from rich.text import Text

    from vtprune.core.conformance import status
    from vtprune.core.plugins import registry

    found = [entry for entry in registry().entries() if entry.name == name]
    if not found:
        raise CliError(_unknown(name), code=2)
    console = stdout()
    for position, entry in enumerate(found):
        if position:
            console.rule()
        console.print(Text.assemble((f"{entry.kind} {entry.name}", "bold"), f": {entry.summary}"))
        paper = f", paper {entry.paper}" if entry.paper else ""
        console.print(f"from {entry.origin} {entry.version} ({entry.target}){paper}")
        if entry.kind != "recipe":
            console.print(f"conformance: {status(entry).text}")
        console.print()
        if entry.kind == "recipe":
            _recipe(entry)
        elif live:
            _run(entry)
        else:
            _read(entry)


def _unknown(name: str) -> str:
    """Why a name is not there, with the nearest ones."""
    from vtprune.core.errors import did_you_mean
    from vtprune.core.plugins import plugins, registry
    from vtprune.core.plugins.absent import why_absent
    from vtprune.core.plugins.plugin import canonical
    from vtprune.studies import shipped

    if name in shipped():
        return f"{name!r} is a study, not a component; `vtprune study show {name}` prints its file."
    names = {entry.name for entry in registry().entries()}
    message = f"nothing is registered as {name!r}."
    origin, _, rest = name.partition("/")
    meant = [other for other in (rest, f"{canonical(origin)}/{rest}") if other in names]
    if meant := meant or sorted(other for other in names if other.endswith(f"/{name}")):
        return f"{message} Did you mean {' or '.join(map(repr, meant))}?"
    return message + why_absent("name", name, plugins(), registry()) + did_you_mean(name, names)


def split_header(text: str) -> tuple[str, str]:
    """A YAML file's leading comment (without its ``#`` signs) and the rest."""
    lines = text.splitlines()
    count = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    comment = [line.removeprefix("#").removeprefix(" ") for line in lines[:count]]
    return "\n".join(comment).strip(), "\n".join(lines[count:]).strip()


def _recipe(entry: Registration) -> None:
    from rich.syntax import Syntax

    from vtprune.core.sources import UnreadableError, data_file

    package, _, file = entry.target.partition(":")
    try:
        comment, body = split_header(data_file(package, file))
    except UnreadableError as error:
        raise CliError(f"recipe {entry.name} of {entry.origin} {entry.version} cannot be read: {error}") from error
    if comment:
        stdout().print(comment, soft_wrap=True)
        stdout().print()
    text = Syntax(body, "yaml", background_color="default").highlight(body)
    text.rstrip()
    stdout().print(text, soft_wrap=True)


def _read(entry: Registration) -> None:
    """Show what the source says; where it says nothing, how to run it instead."""
    from vtprune.cli.source.adapter import read_adapter
    from vtprune.cli.source.component import read_component
    from vtprune.core.sources import UnreadableError

    live = LIVE.format(name=entry.name)
    try:
        if entry.kind == "adapter":
            adapter = read_adapter(entry.target)
        else:
            component = read_component(entry.kind, entry.target)
    except UnreadableError as error:
        stdout().print(f"The source does not tell more: {error}. To import it and see: {live}")
        return
    if entry.kind == "adapter":
        _prose(adapter.documentation)
        if adapter.maker:
            whole = "" if adapter.complete else f", whose own part is not read; to import it and see: {live}"
            stdout().print(f"made by {adapter.maker}{whole}")
        _adapter({name: adapter.get(name, stated.text) for name, stated in adapter.fields.items()}, adapter.complete)
        return
    _prose(component.prose)
    _parameters(component.parameters)
    for label, fact in component.facts.items():
        _fact(label, fact.value, fact.expression)
    if component.expected_failures:
        stdout().print("expected to fail in the conformance suite:")
        _rows(component.expected_failures)
    if component.kind != entry.kind and not component.unread:
        kind = component.kind or "no component"
        note(f"it is registered as a {entry.kind}, but its class is {kind}; recipes refuse it")
    if component.unread:
        note(f"also inherits from {', '.join(component.unread)}, whose source was not read; to see all: {live}")


def _run(entry: Registration) -> None:
    """Import what is registered and show what it says of itself."""
    from dataclasses import fields

    from vtprune.core.plugins import registry

    found: Any = registry().load(entry.kind, entry.name)
    if entry.kind == "adapter":
        _adapter({field.name: getattr(found, field.name) for field in fields(found)})
        return
    from vtprune.cli.parameters import facts, parameters_of
    from vtprune.core.documentation import documentation

    prose, meanings = documentation(found)
    _prose(prose)
    _parameters(parameters_of(found, meanings))
    for label, value in facts(found).items():
        stdout().print(f"{label}: {value}")
    if found.expected_failures:
        stdout().print("expected to fail in the conformance suite:")
        _rows(found.expected_failures)


def _prose(text: str) -> None:
    stdout().print(_joined(text) or "no documentation")
    stdout().print()


def _joined(text: str) -> str:
    """Prose whose paragraphs are one line each, to be wrapped where the terminal ends; indented lines and bullets stay
    lines of their own."""
    joined = re.sub(r"(?<=[^\s:])\n(?=[^\s*-])", " ", text.replace("``", "`"))
    return re.sub(r"::$", ":", joined, flags=re.MULTILINE)


def _parameters(found: Iterable[Parameter]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console, found = stdout(), list(found)
    console.print("parameters:" if found else "no parameters")
    for one in found:
        line = Text.assemble((one.name, "bold"), f": {one.type}, {one.default}")
        console.print(Padding(line, LEFT, expand=False))
        if one.meaning:
            console.print(Padding(one.meaning.replace("``", "`"), FURTHER_LEFT, expand=False))
    console.print()


def _fact(label: str, value: str, expression: str) -> None:
    """One declaration. expression: what it follows from, where that depends on parameters."""
    from rich.padding import Padding

    if not value:
        stdout().print(f"{label}: depends on parameters: {expression}")
        return
    stdout().print(f"{label}: {value}{' (with default parameters)' if expression else ''}")
    if expression:
        stdout().print(Padding(f"in general: {expression}", LEFT, expand=False))


def _rows(rows: Mapping[str, str]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for label, value in rows.items():
        table.add_row(label, value)
    stdout().print(table)


def _adapter(fields: Mapping[str, Any], complete: bool = True) -> None:
    """An adapter's fields; one that is missing or None is not there. complete: whether all fields are known."""

    def shown(name: str) -> str:
        value = fields.get(name)
        if value is None:
            return "none" if complete or name in fields else "not stated"
        return str(value) if isinstance(value, str) else ", ".join(sorted(map(str, value)))

    if (refused := fields.get("unsupported")) is not None:
        stdout().print(f"refused: {refused}")
    placeholders = fields.get("placeholders") or {}
    inputs = placeholders.items() if isinstance(placeholders, Mapping) else [(placeholders, "")]
    inside = f", with their attention in {shown('vision_attention')}" if fields.get("vision_layers") else ""
    no_sites = "no" if complete or "tower_depth" in fields else "not stated"
    _rows(
        {
            "model classes": shown("architectures"),
            "provides": shown("provides"),
            "inputs": ", ".join(f"{kind} ({attribute})" for kind, attribute in inputs) or "none",
            "language model": shown("language_model"),
            "vision tower": shown("vision_tower"),
            "vision layers": f"{shown('vision_layers')}{inside}",
            "projector": shown("projector"),
            "sites inside the tower": no_sites if fields.get("tower_depth") is None else "vision.layers[I]",
        }
    )
