"""Switches in the environment: which plugins are loaded, and whether a broken one is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vtprune.core.errors import did_you_mean
from vtprune.core.plugins.plugin import canonical

ALLOW, DISABLE, STRICT = "VTPRUNE_PLUGINS", "VTPRUNE_DISABLE_PLUGINS", "VTPRUNE_STRICT_PLUGINS"
VARIABLES = (ALLOW, DISABLE, STRICT)
ALL = "all"


@dataclass(frozen=True)
class Switches:
    """allow: the only distributions to load, or None for every one. disable: distributions not to load; ``all`` means
    every one. strict: whether a broken plugin is an error. misspelt: variables that look like one of these but are
    read by nobody. Never concerns the built-ins."""

    allow: frozenset[str] | None = None
    disable: frozenset[str] = frozenset()
    strict: bool = False
    misspelt: frozenset[str] = frozenset()

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Switches:
        """``VTPRUNE_PLUGINS`` (set and empty: none), ``VTPRUNE_DISABLE_PLUGINS`` and ``VTPRUNE_STRICT_PLUGINS``."""
        allow = environment.get(ALLOW)
        return cls(
            None if allow is None else _names(allow),
            _names(environment.get(DISABLE, "")),
            environment.get(STRICT, "0") not in ("", "0"),
            frozenset(name for name in environment if _is_misspelt(name)),
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
        """A sentence for every variable that nothing reads and every name that no plugin's distribution has."""
        known = set(installed)
        absent = "but no plugin of that distribution is installed"
        named = [(ALLOW, self.allow or frozenset()), (DISABLE, self.disable - {ALL})]
        return (
            *(f"{name} is set, but read by nobody.{did_you_mean(name, VARIABLES)}" for name in sorted(self.misspelt)),
            *(
                f"{variable} names {name!r}, {absent}.{did_you_mean(name, known)}"
                for variable, names in named
                for name in sorted(names - known)
            ),
        )


def _is_misspelt(variable: str) -> bool:
    return variable.startswith("VTPRUNE_") and "PLUGIN" in variable and variable not in VARIABLES


def _names(text: str) -> frozenset[str]:
    return frozenset(canonical(name) for name in text.replace(",", " ").split())
