"""How parameters and declarations are worded; what reading the source and running it have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOUNDS = {
    "ge": ">=",
    "gt": ">",
    "le": "<=",
    "lt": "<",
    "multiple_of": "multiple of",
    "min_length": "length >=",
    "max_length": "length <=",
}
"""Constraints of a field, in the order in which they are shown."""

DECLARED: Mapping[str, Mapping[str, str]] = {
    "scorer": {
        "granularity": "granularity",
        "permutation_equivariant": "scores move with their tokens",
    },
    "allocator": {"count_is_static": "count known from shapes alone"},
    "selector": {
        "uses_scores": "uses scores",
        "feature_source": "reads features from",
        "count_is_exact": "keeps exactly the allocated count",
        "needs_count": "needs a budget",
        "rank_only": "only the order of the scores matters",
    },
    "reducer": {},
    "task": {},
}
"""What a component of each kind says of itself, beside its needs: the property, and its label."""


@dataclass(frozen=True)
class Parameter:
    """One parameter in words; ``default`` reads ``default 3`` or ``required``."""

    name: str
    type: str
    default: str
    meaning: str


def bounded(text: str, bounds: Mapping[str, Any]) -> str:
    """A type with the bounds of its values, ``int, >= 1``. bounds: constraint, as in `BOUNDS`, to number."""
    return ", ".join([text, *(f"{sign} {bounds[name]}" for name, sign in BOUNDS.items() if name in bounds)])


def default_text(value: Any) -> str:
    """A default as JSON; what JSON cannot say, as a string."""
    return f"default {json.dumps(value, default=str)}"


def value_text(value: Any) -> str:
    """What a declaration says: yes and no, names in order, ``nothing`` for nothing at all."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (set, frozenset, tuple, list)):
        return ", ".join(sorted(map(str, value))) or "nothing"
    return "nothing" if value is None else str(value)


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
