"""Switches in the environment: which plugins are loaded, and whether a broken one is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vtprune.core.errors import did_you_mean
from vtprune.core.plugins.plugin import canonical

ALLOW, DISABLE, STRICT = "VTPRUNE_PLUGINS", "VTPRUNE_DISABLE_PLUGINS", "VTPRUNE_STRICT_PLUGINS"
ALL = "all"


@dataclass(frozen=True)
class Switches:
    """allow: the only distributions to load, or None for every one. disable: distributions not to load; ``all`` means
    every one. strict: whether a broken plugin is an error. Never concerns the built-ins."""

    allow: frozenset[str] | None = None
    disable: frozenset[str] = frozenset()
    strict: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Switches:
        """``VTPRUNE_PLUGINS`` (set and empty: none), ``VTPRUNE_DISABLE_PLUGINS`` and ``VTPRUNE_STRICT_PLUGINS``."""
        allow = environment.get(ALLOW)
        return cls(
            None if allow is None else _names(allow),
            _names(environment.get(DISABLE, "")),
            environment.get(STRICT, "0") not in ("", "0"),
        )

    def against(self, distribution: str) -> str | None:
        """Why a distribution is not loaded, or None if it is."""
        if ALL in self.disable:
            return f"{DISABLE}={ALL}"
        if distribution in self.disable:
            return f"{DISABLE} names it"
        if self.allow is not None and distribution not in self.allow:
            return f"{ALLOW} does not name it"
        return None

    def problems(self, installed: Iterable[str]) -> tuple[str, ...]:
        """A sentence for every name that no installed plugin's distribution has."""
        known = set(installed)
        named = [(ALLOW, self.allow or frozenset()), (DISABLE, self.disable - {ALL})]
        return tuple(
            f"{variable} names {name!r}, but no plugin of that distribution is installed.{did_you_mean(name, known)}"
            for variable, names in named
            for name in sorted(names - known)
        )


def _names(text: str) -> frozenset[str]:
    return frozenset(canonical(name) for name in text.replace(",", " ").split())
