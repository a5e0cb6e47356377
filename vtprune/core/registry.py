"""The registry: names to components, adapters and recipes, imported only when used.

It knows no concrete component. Plugins (the built-ins among them) register light descriptions through one pluggy hook;
see `vtprune.core.plugins`. Nothing here imports torch, so listing is quick.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vtprune.core.errors import PluginError, UnknownNameError, did_you_mean

Kind = Literal["scorer", "allocator", "selector", "reducer", "adapter", "recipe", "task"]
KINDS: tuple[str, ...] = get_args(Kind)
STAGE_KINDS = ("scorer", "allocator", "selector", "reducer")
"""The kinds of components that make up a stage, in the order in which they act, and as its fields are called."""


@dataclass(frozen=True)
class Registration:
    """One registered name.

    target: ``"module:attribute"`` of a component class, task class or adapter; ``"package:file.yaml"`` of a recipe.
    origin: the distribution that registered it; version: that distribution's version; module: the one whose hook did.
    """

    kind: str
    name: str
    target: str
    summary: str
    paper: str | None
    origin: str
    version: str
    module: str = ""


class Registry:
    """Registrations by kind and name; a plain mapping with good errors.

    explain: what to say of a kind and a name that are not there, beside the nearest names; the loader sets it.
    """

    def __init__(self) -> None:
        self.explain: Callable[[str, str], str] = lambda kind, name: ""
        self._entries: dict[tuple[str, str], Registration] = {}
        self._loaded: dict[tuple[str, str], Any] = {}

    def add(self, entry: Registration) -> None:
        """Register ``entry``; raises PluginError if the name is taken by another distribution or target."""
        key = (entry.kind, entry.name)
        if (old := self._entries.get(key)) is not None:
            raise PluginError(
                f"{entry.kind} {entry.name!r} is registered twice: by {old.origin} {old.version} ({old.target}) and by "
                f"{entry.origin} {entry.version} ({entry.target}); rename one of them"
            )
        self._entries[key] = entry

    def names(self, kind: str) -> list[str]:
        """All names of one kind, sorted."""
        return sorted(name for entry_kind, name in self._entries if entry_kind == kind)

    def entries(self, kind: str | None = None) -> Iterator[Registration]:
        """Registrations of one kind (or all), by kind and name."""
        for key in sorted(self._entries, key=lambda key: (KINDS.index(key[0]), key[1])):
            if kind in (None, key[0]):
                yield self._entries[key]

    def entry(self, kind: str, name: str) -> Registration:
        """One registration; raises UnknownNameError with the nearest names."""
        if (kind, name) not in self._entries:
            said = self.explain(kind, name)
            raise UnknownNameError(f"unknown {kind} {name!r}.{said}{did_you_mean(name, self.names(kind))}")
        return self._entries[kind, name]

    def load(self, kind: str, name: str) -> Any:
        """Import and return the object behind a name; raises UnknownNameError or PluginError."""
        entry = self.entry(kind, name)
        if (kind, name) not in self._loaded:
            module, _, attribute = entry.target.partition(":")
            try:
                self._loaded[kind, name] = getattr(importlib.import_module(module), attribute)
            except Exception as error:
                near = difflib.get_close_matches(attribute, vars(sys.modules.get(module, sys)), n=1)
                hint = f". Did you mean {near[0]!r}?" if near and isinstance(error, AttributeError) else ""
                raise PluginError(
                    f"{kind} {name!r} of {entry.origin} {entry.version} cannot be loaded from {entry.target}: "
                    f"{type(error).__name__}: {error}{hint}"
                ) from error
        return self._loaded[kind, name]

    def name_of(self, kind: str, target: type) -> str:
        """The name a class is registered under; raises UnknownNameError for an unregistered class."""
        path = f"{target.__module__}:{target.__qualname__}"
        for entry in self.entries(kind):
            if entry.target == path or self._loaded.get((kind, entry.name)) is target:
                return entry.name
        raise UnknownNameError(
            f"{path} is not a registered {kind}, so a recipe that holds it cannot be written or hashed; register it "
            f"through the 'vtprune' entry point of a package"
        )

    def merge(self, other: Registry) -> None:
        """Take over all of another registry's entries or, if one clashes, none of them."""
        trial = Registry()
        trial._entries = dict(self._entries)
        for entry in other.entries():
            trial.add(entry)
        self._entries = trial._entries
