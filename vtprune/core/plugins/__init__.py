"""Plugin discovery: one hook, one entry-point group, isolated loading.

A plugin is a module with a hook implementation that registers names and targets::

    from vtprune.plugin import hookimpl

    @hookimpl
    def vtprune_register(registrar):
        registrar.add("scorer", "entropy", "acme.scorers:Entropy", summary="...")

The built-ins use the same hook. Start at `vtprune.core.plugins.loader`; docs/plugins.md tells it from the outside.
"""

from __future__ import annotations

from functools import cache

from vtprune.core.plugins.hooks import API, GROUP, hookimpl
from vtprune.core.plugins.loader import Discovery, discover
from vtprune.core.plugins.plugin import Plugin
from vtprune.core.plugins.registrar import Registrar
from vtprune.core.registry import Registry


@cache
def _installed() -> Discovery:
    return discover()


def registry() -> Registry:
    """The registry of everything installed, discovered once per process."""
    return _installed().registry


def plugins() -> tuple[Plugin, ...]:
    """Every plugin, in whatever state: the built-ins first, then by distribution and entry point."""
    return _installed().plugins


def failures() -> tuple[Plugin, ...]:
    """The plugins that should work and do not."""
    return tuple(plugin for plugin in plugins() if plugin.is_fault)


def plugins_problems() -> tuple[str, ...]:
    """A sentence for each switch in the environment that names no installed plugin."""
    return _installed().problems


__all__ = [
    "API",
    "GROUP",
    "Discovery",
    "Plugin",
    "Registrar",
    "discover",
    "failures",
    "hookimpl",
    "plugins",
    "plugins_problems",
    "registry",
]
