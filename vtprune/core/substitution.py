"""Names that stand for others in one recipe: its field ``replace``.

A component or adapter can take the place of another one nowhere but in a recipe, so that what acted is always recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from vtprune.core.errors import did_you_mean
from vtprune.core.plugins import registry
from vtprune.core.registry import STAGE_KINDS


@dataclass
class Substitution:
    """A recipe's ``replace``, old name to new name, while its stages are read; used: the old names that were met."""

    names: Mapping[str, str]
    used: set[str] = field(default_factory=set)

    def of(self, kind: str, name: str) -> str:
        """The name to take for ``name``."""
        new = self.names.get(name)
        if new is None or new not in registry().names(kind):
            return name
        self.used.add(name)
        return new


_NONE = Substitution({})
_current: ContextVar[Substitution] = ContextVar("substitution", default=_NONE)


def substituted(kind: str, name: str) -> str:
    """What ``name`` stands for in the recipe that is being read."""
    return _current.get().of(kind, name)


@contextmanager
def substituting(names: Mapping[str, str]) -> Iterator[Substitution]:
    """Inside, `substituted` follows ``names``."""
    substitution = Substitution(names)
    token = _current.set(substitution)
    try:
        yield substitution
    finally:
        _current.reset(token)


def problems(names: Mapping[str, str], met: set[str]) -> Iterator[str]:
    """What is wrong with a recipe's ``replace``.

    met: names that the stages hold after, or held before, they were read. Adapters need not be met: it is the model
    that decides which one would be in force.
    """
    known = {kind: registry().names(kind) for kind in (*STAGE_KINDS, "adapter")}
    everything = sorted({name for names in known.values() for name in names})
    for old, new in names.items():
        if new not in everything:
            yield f"replace: {old!r} is to be {new!r}, which nothing has registered.{did_you_mean(new, everything)}"
        elif old == new:
            yield f"replace: {old!r} is to be itself; leave it out"
        elif new in known["adapter"]:
            if old not in known["adapter"]:
                yield f"replace: {new!r} is an adapter, but {old!r} is none.{did_you_mean(old, known['adapter'])}"
        elif (own := _kinds(old, known)) and not own & (theirs := _kinds(new, known)):
            kinds = f"{' and '.join(sorted(own))} {old!r}", f"{' and '.join(sorted(theirs))} {new!r}"
            yield f"replace: the place of {kinds[0]} cannot be taken by {kinds[1]}, which is of another kind"
        elif not {old, new} & met:
            yield f"replace: no component of the stages is called {old!r}.{did_you_mean(old, met)}"


def _kinds(name: str, known: Mapping[str, Sequence[str]]) -> set[str]:
    """The kinds of which a name is."""
    return {kind for kind, names in known.items() if name in names}


def adapters(names: Mapping[str, str]) -> dict[str, str]:
    """The part of a recipe's ``replace`` that concerns adapters."""
    known = registry().names("adapter")
    return {old: new for old, new in names.items() if new in known}


def names_in(data: Any) -> set[str]:
    """Every ``name`` in the plain data of stages."""
    if isinstance(data, Mapping):
        own = {data["name"]} if isinstance(data.get("name"), str) else set()
        return own.union(*(names_in(value) for value in data.values()))
    if isinstance(data, list | tuple):
        return set().union(*(names_in(value) for value in data))
    return set()
