"""Plugin discovery: one hook, one entry-point group, isolated loading.

A plugin is a module with a hook implementation that registers names and targets::

    from vtprune import hookimpl

    @hookimpl
    def vtprune_register(registrar):
        registrar.add("scorer", "entropy", "acme.scorers:Entropy", summary="...")

The built-ins use the same hook. Each third-party plugin is loaded by itself and all or nothing: a broken one is kept as
a `PluginFailure` and leaves every other plugin working. ``VTPRUNE_STRICT_PLUGINS=1`` turns failures into errors.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version

import pluggy

from vtprune.core.errors import PluginError
from vtprune.core.registry import KINDS, Registration, Registry

GROUP = "vtprune"
API = 1
BUILTINS = "vtprune.builtins"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Registrar:
    """What a plugin's hook receives: adds names on behalf of one distribution."""

    def __init__(self, registry: Registry, origin: str, release: str) -> None:
        self._registry, self._origin, self._release = registry, origin, release

    def add(self, kind: str, name: str, target: str, *, summary: str, paper: str | None = None) -> None:
        """Register ``name``; names of other distributions than vtprune appear as ``distribution/name``.

        kind: scorer, allocator, selector, reducer, adapter, recipe or task. target: ``"module:attribute"``, imported on
        first use; for a recipe ``"package:file.yaml"``. Raises PluginError for a bad kind, name or target.
        """
        if kind not in KINDS:
            raise PluginError(f"{self._origin}: unknown kind {kind!r} for {name!r}; kinds: {', '.join(KINDS)}")
        if not name or not all(part.isidentifier() for part in name.replace("-", "_").split(".")):
            raise PluginError(f"{self._origin}: {name!r} is not a usable name; use letters, digits, _ and -")
        if target.count(":") != 1:
            raise PluginError(f"{self._origin}: target {target!r} of {name!r} must look like 'module:attribute'")
        full = name if self._origin == GROUP else f"{self._origin}/{name}"
        self._registry.add(Registration(kind, full, target, summary, paper, self._origin, self._release))


class _Hooks:
    @hookspec
    def vtprune_register(self, registrar: Registrar) -> None:
        """Register components, adapters and recipes with ``registrar.add``. Import nothing heavy here."""


@dataclass(frozen=True)
class PluginFailure:
    """A third-party plugin that could not be loaded."""

    distribution: str
    entry_point: str
    error: Exception

    def __str__(self) -> str:
        return f"plugin {self.entry_point!r} of {self.distribution}: {type(self.error).__name__}: {self.error}"


def _register(module: object, origin: str, release: str) -> Registry:
    """Run one plugin's hook in a registry of its own."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(_Hooks)
    manager.register(module)
    manager.check_pending()
    if not manager.hook.vtprune_register.get_hookimpls():
        raise PluginError(f"{module!r} implements no vtprune_register hook; decorate it with vtprune.hookimpl")
    registry = Registry()
    manager.hook.vtprune_register(registrar=Registrar(registry, origin, release))
    return registry


def discover(third_party: list[EntryPoint] | None = None) -> tuple[Registry, list[PluginFailure]]:
    """Load the built-ins, then every installed plugin in (distribution, entry point) order.

    Raises PluginError for the first broken plugin if ``VTPRUNE_STRICT_PLUGINS`` is set to something other than 0.
    """
    registry = _register(importlib.import_module(BUILTINS), GROUP, version(GROUP))
    failures: list[PluginFailure] = []
    points = list(entry_points(group=GROUP)) if third_party is None else third_party
    for point in sorted(points, key=lambda point: (_distribution(point), point.name)):
        origin = _distribution(point)
        try:
            registry.merge(_register(point.load(), origin, point.dist.version if point.dist else "unknown"))
        except Exception as error:
            failure = PluginFailure(origin, point.name, error)
            if os.environ.get("VTPRUNE_STRICT_PLUGINS", "0") not in ("", "0"):
                raise PluginError(str(failure)) from error
            failures.append(failure)
    return registry, failures


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value.partition(":")[0].partition(".")[0]


@cache
def _installed() -> tuple[Registry, list[PluginFailure]]:
    return discover()


def registry() -> Registry:
    """The registry of everything installed, discovered once per process."""
    return _installed()[0]


def failures() -> list[PluginFailure]:
    """Third-party plugins that could not be loaded in this process."""
    return list(_installed()[1])
