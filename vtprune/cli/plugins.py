"""``vtprune plugins``: what became of every installed plugin."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtprune.cli.completion import distribution_name
from vtprune.cli.console import CliError, Debug, Json, friendly, note, print_json, stdout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vtprune.core.plugins import Discovery, Plugin
    from vtprune.core.registry import Registration, Registry

SLOW = 0.1
"""Seconds that importing a registration module may take."""
STYLES = {"active": "green", "failed": "bold red", "incompatible": "red", "disabled": "dim"}
Claim = tuple[str, str | None]
"""A model class and a type of vision tower, or None for any."""


@friendly
def list_plugins(
    traceback: Annotated[
        str | None,
        typer.Option(
            metavar="DIST", help="Print the traceback of a failed one, and no table.", autocompletion=distribution_name
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the installed plugins: which work, which do not and why, and what they register.

    Exit code 0 also if some failed; 1 if so and VTPRUNE_STRICT_PLUGINS is set.
    """
    from vtprune.core.plugins import discover
    from vtprune.core.plugins.switches import STRICT, Switches

    found = discover(environment={name: value for name, value in os.environ.items() if name != STRICT})
    if traceback is not None:
        _print_traceback(found, traceback)
        return
    remarks = list(_remarks(found))
    if as_json:
        print_json({"plugins": [_data(plugin) for plugin in found.plugins], "remarks": remarks})
    else:
        _show(found)
        for remark in remarks:
            stdout().print(f"- {remark}")
        if any(plugin.traceback for plugin in found.plugins):
            note("`vtprune plugins --traceback DISTRIBUTION` shows where a failed one broke")
    faults = [plugin for plugin in found.plugins if plugin.is_fault]
    if Switches.read(os.environ).strict and (faults or found.problems):
        raise CliError(f"{STRICT} is set, and not everything is in order; other commands refuse to run")


def _print_traceback(found: Discovery, name: str) -> None:
    """The tracebacks of a distribution's failed plugins; raises CliError if it has none."""
    from vtprune.core.errors import did_you_mean
    from vtprune.core.plugins.plugin import canonical

    own = [plugin for plugin in found.plugins if plugin.distribution == canonical(name)]
    if not own:
        known = {plugin.distribution for plugin in found.plugins}
        raise CliError(f"no installed plugin is of the distribution {name!r}.{did_you_mean(canonical(name), known)}", 2)
    failed = [plugin for plugin in own if plugin.traceback]
    if not failed:
        raise CliError("; ".join(f"{plugin}; it has no traceback" for plugin in own))
    for plugin in failed:
        note(f"plugin {plugin.entry_point!r} of {plugin.distribution} {plugin.version} ({plugin.module})")
        typer.echo(plugin.traceback, nl=False)


def _data(plugin: Plugin) -> dict[str, Any]:
    """A plugin as JSON."""
    names: dict[str, list[str]] = {}
    for entry in plugin.registrations:
        names.setdefault(entry.kind, []).append(entry.name)
    return {
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point,
        "module": plugin.module,
        "state": plugin.state,
        "reason": plugin.reason,
        "names": names,
        "requires": plugin.requires,
        "seconds": round(plugin.seconds, 4),
        "heavy": list(plugin.heavy),
    }


def _show(found: Discovery) -> None:
    """The table; a distribution's entry point is named where it has several."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("distribution", no_wrap=True)
    table.add_column("version")
    table.add_column("state", no_wrap=True)
    table.add_column("registers, or why not", overflow="fold")
    several = Counter(plugin.distribution for plugin in found.plugins)
    for plugin in found.plugins:
        label = plugin.distribution
        if several[label] > 1:
            label = f"{label}:{plugin.entry_point}"
        state = Text(plugin.state, STYLES[plugin.state])
        table.add_row(label, plugin.version, state, plugin.reason or _counts(plugin.registrations))
    stdout().print(table)


def _counts(entries: tuple[Registration, ...]) -> str:
    """``2 scorers, 1 recipe``."""
    counts = Counter(entry.kind for entry in entries)
    return ", ".join(f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in counts.items()) or "nothing"


def _remarks(found: Discovery) -> Iterator[str]:
    """What is not as it should be, beside what failed."""
    yield from found.problems
    for plugin in found.plugins[1:]:
        who = f"{plugin.distribution} {plugin.version}"
        if plugin.heavy:
            yield (
                f"{who}: {plugin.module} imports {', '.join(plugin.heavy)} to register its names ({plugin.seconds:.2f} "
                f"s); move the import into the component's module, which is imported on first use"
            )
        elif plugin.seconds > SLOW:
            yield (
                f"{who}: {plugin.module} takes {plugin.seconds:.2f} s to register its names; it should import "
                f"`hookimpl`, call `registrar.add`, and do nothing else"
            )
        if plugin.state == "active" and not plugin.registrations:
            yield f"{who}: {plugin.module} registers nothing; its hook should call `registrar.add`"
    yield from _shared_classes(found.registry)


def _shared_classes(registry: Registry) -> Iterator[str]:
    """Model classes that adapters of third parties claim though another adapter does, told from the sources."""
    from vtprune.core.plugins import GROUP

    entries = sorted(registry.entries("adapter"), key=lambda entry: (entry.origin != GROUP, entry.name))
    if all(entry.origin == GROUP for entry in entries):
        return
    first: dict[Claim, Registration] = {}
    for entry in entries:
        try:
            claims = _claims(entry)
        except LookupError as error:
            yield f"adapter {entry.name}: which model classes it claims cannot be told without importing it ({error})"
            continue
        taken: dict[str, list[str]] = {}
        for claim in claims:
            other = first.setdefault(claim, entry)
            if other is not entry:
                taken.setdefault(other.name, []).append(claim[0])
        for name, classes in taken.items():
            yield _clash(entry, registry.entry("adapter", name), dict.fromkeys(classes))


def _claims(entry: Registration) -> list[Claim]:
    """What an adapter claims; raises LookupError if its source does not say."""
    from vtprune.cli.source.adapter import read_adapter
    from vtprune.core.sources import UnreadableError

    try:
        adapter = read_adapter(entry.target)
    except UnreadableError as error:
        raise LookupError(str(error)) from error
    classes = adapter.get("architectures")
    if not isinstance(classes, tuple | list):
        raise LookupError(f"`architectures` is no plain tuple in {entry.target}")
    towers = adapter.get("tower_types") or (None,)
    return [(str(name), tower) for name in classes for tower in towers]


def _clash(entry: Registration, other: Registration, classes: dict[str, None]) -> str:
    from vtprune.core.plugins import GROUP

    names = ", ".join(classes)
    remedy = f"a recipe can say `replace: {{{other.name}: {entry.name}}}`"
    if other.origin == GROUP:
        return f"adapter {entry.name} claims {names}, but the built-in {other.name!r} stays in force; {remedy}"
    return (
        f"{names}: claimed by adapter {other.name} of {other.origin} {other.version} and by {entry.name} of "
        f"{entry.origin} {entry.version}; neither is used until one goes, or {remedy}"
    )
