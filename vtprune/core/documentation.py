"""A component's docstring, taken apart into prose and the meaning of each parameter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtprune.core.component import Component


def documentation(component: type[Component]) -> tuple[str, dict[str, str]]:
    """The prose of a component's docstring, and the meaning of each parameter.

    Parameters from a base class may be documented there.
    """
    from vtprune.core.component import Component  # brings torch, which readers of sources do without

    names = list(component.model_fields)
    prose, meanings = take_apart(inspect.getdoc(component) or "", names)
    for base in component.__mro__[1:]:
        if issubclass(base, Component):
            meanings = take_apart(inspect.cleandoc(base.__doc__ or ""), names)[1] | meanings
    return prose, meanings


def take_apart(text: str, fields: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A docstring's prose, and the meaning of each parameter.

    A parameter is documented by a line ``name: meaning`` (or ``one, two: meaning``) at the margin; indented lines below
    continue it, and the next one may follow on the same line after a full stop.
    """
    prose: list[str] = []
    meanings: dict[str, str] = {}
    current: list[str] = []
    inside = re.compile(rf"(?<=\.) (?=(?:{'|'.join(map(re.escape, fields))}): )") if fields else None
    for line in text.splitlines():
        if current and line.startswith(" "):
            meanings.update({name: f"{meanings[name]} {line.strip()}" for name in current})
            continue
        current = _documented(line, fields)
        if not current:
            prose.append(line)
            continue
        for part in inside.split(line) if inside else []:
            current = _documented(part, fields)
            meanings.update(dict.fromkeys(current, part.partition(": ")[2].strip()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip(), meanings


def _documented(line: str, fields: Sequence[str]) -> list[str]:
    """The parameters that a line of a docstring begins to document, if any."""
    head, colon, _ = line.partition(": ")
    names = [name.strip() for name in head.split(",")]
    return names if colon and all(name in fields for name in names) else []
