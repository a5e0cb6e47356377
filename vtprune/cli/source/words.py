"""How parameters and declarations are worded; what reading the source and running it have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
