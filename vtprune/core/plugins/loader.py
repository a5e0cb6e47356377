"""Loading plugins: each by itself, all or nothing, in a fixed order.

pluggy's own loader imports every entry point in one go, and lets the first error out; here a plugin that fails is kept
with its traceback and leaves every other one working.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pluggy

from vtprune.core.errors import PluginError
from vtprune.core.plugins.absent import why_absent
from vtprune.core.plugins.hooks import API, GROUP, Hooks
from vtprune.core.plugins.plugin import Plugin, canonical
from vtprune.core.plugins.registrar import Registrar
from vtprune.core.plugins.switches import Switches
from vtprune.core.registry import Registry

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILTINS = "vtprune.builtins"
HEAVY = ("torch", "transformers", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "jax", "tensorflow")
DECLARATION = "VTPRUNE_API"


@dataclass(frozen=True)
class Discovery:
    """registry: what is registered; plugins: the built-ins, then every entry point by distribution and name; problems:
    switches in the environment that name nothing."""

    registry: Registry
    plugins: tuple[Plugin, ...]
    problems: tuple[str, ...] = ()


class _Incompatible(Exception):
    """The plugin was made for another version of vtprune."""


def discover(points: Iterable[EntryPoint] | None = None, environment: Mapping[str, str] | None = None) -> Discovery:
    """Load the built-ins, then every installed plugin in (distribution, entry point) order.

    points: entry points instead of the installed ones. environment: instead of the process's. Raises PluginError in
    strict mode for the first plugin that fails or is incompatible, and for a switch that names nothing.
    """
    from importlib.metadata import entry_points, version

    switches = Switches.read(os.environ if environment is None else environment)
    release = version(GROUP)
    registry = Registry()
    plugins = [_load(Plugin(GROUP, release, "builtins", BUILTINS), registry, prefix="")]
    if (error := plugins[0].error) is not None:
        raise error
    third = [_described(point) for point in (entry_points(group=GROUP) if points is None else points)]
    for plugin in sorted(third, key=lambda plugin: (plugin.distribution, plugin.entry_point)):
        if (reason := switches.against(plugin.distribution)) is not None:
            plugin = replace(plugin, state="disabled", reason=reason)
        elif not _allows(plugin.requires, release):
            reason = f"{plugin.distribution} {plugin.version} asks for vtprune{plugin.requires}, here is {release}"
            plugin = replace(plugin, state="incompatible", reason=f"{reason}; install another version of one of them")
        else:
            plugin = _load(plugin, registry, prefix=f"{plugin.distribution}/")
        if switches.strict and plugin.is_fault:
            raise PluginError(str(plugin)) from plugin.error
        plugins.append(plugin)
    problems = switches.problems(plugin.distribution for plugin in third)
    if switches.strict and problems:
        raise PluginError("; ".join(problems))
    registry.explain = partial(why_absent, plugins=tuple(plugins), registry=registry)
    return Discovery(registry, tuple(plugins), problems)


def _described(point: EntryPoint) -> Plugin:
    """A plugin that is not loaded yet, from the metadata of its distribution."""
    name = getattr(point.dist, "name", None) or point.value.partition(":")[0].partition(".")[0]
    release = getattr(point.dist, "version", None) or "unknown"
    return Plugin(canonical(name), release, point.name, point.value, requires=_asks(point))


def _asks(point: EntryPoint) -> str:
    """The versions of vtprune that the plugin's distribution asks for; empty if it does not say."""
    lines = [line for line in (getattr(point.dist, "requires", None) or ()) if canonical(line).startswith(GROUP)]
    if not lines:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for line in lines:
        try:
            asked = Requirement(line)
        except InvalidRequirement:
            continue
        if canonical(asked.name) == GROUP and (asked.marker is None or asked.marker.evaluate({"extra": ""})):
            found.append(str(asked.specifier))
    return ",".join(filter(None, found))


def _allows(requires: str, release: str) -> bool:
    if not requires:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(requires).contains(release, prereleases=True)


def _load(plugin: Plugin, registry: Registry, prefix: str) -> Plugin:
    """Import a plugin and run its hook in a registry of its own, which ``registry`` takes over as a whole."""
    before, started = {name for name in HEAVY if name in sys.modules}, time.perf_counter()
    own = Registry()
    try:
        found = _imported(plugin.module)
        _check_api(found, plugin)
        _run_hook(found, Registrar(own, prefix, plugin.distribution, plugin.version, plugin.module.partition(":")[0]))
        registry.merge(own)
    except _Incompatible as error:
        plugin = replace(plugin, state="incompatible", reason=str(error))
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        plugin = replace(
            plugin, state="failed", reason=reason, error=error, traceback="".join(traceback.format_exception(error))
        )
    else:
        plugin = replace(plugin, registrations=tuple(own.entries()))
    heavy = tuple(name for name in HEAVY if name in sys.modules and name not in before)
    return replace(plugin, seconds=time.perf_counter() - started, heavy=heavy)


def _imported(value: str) -> Any:
    """What an entry point names: a module, or an attribute of one."""
    from importlib.metadata import EntryPoint

    if EntryPoint.pattern.match(value) is None:
        raise PluginError(f"the entry point {value!r} must name a module, like 'acme_plugin.plugin'")
    return EntryPoint("plugin", value, GROUP).load()


def _check_api(found: Any, plugin: Plugin) -> None:
    """Raise _Incompatible if the plugin says that it was written for another contract."""
    module = sys.modules.get(plugin.module.partition(":")[0])
    declared: Any = getattr(found, DECLARATION, getattr(module, DECLARATION, API))
    pair: tuple[Any, Any] = declared if isinstance(declared, tuple) and len(declared) == 2 else (declared, declared)
    low, high = pair
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in (low, high)) or low > high:
        raise PluginError(f"{DECLARATION} is {declared!r}; write a number, or a pair (lowest, highest)")
    if not low <= API <= high:
        span = f"{low}" if low == high else f"{low} to {high}"
        newer = "upgrade the plugin" if high < API else "upgrade vtprune"
        raise _Incompatible(f"it was written for plugin API {span}, this vtprune has {API}; {newer}")


def _run_hook(found: Any, registrar: Registrar) -> None:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    try:
        manager.register(found)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        said = f"{type(error).__name__}: {error}"
        raise PluginError(f"{said}; the hook is `vtprune_register(registrar)`, under that name and argument") from error
    if not manager.hook.vtprune_register.get_hookimpls():
        if callable(found):
            name = getattr(found, "__qualname__", repr(found))
            raise PluginError(
                f"the entry point names {name!r}, in which there is no vtprune_register hook; let it name the module "
                f"that holds the hook, without ':{name}'"
            )
        raise PluginError(f"{found!r} implements no vtprune_register hook; decorate it with vtprune.plugin.hookimpl")
    manager.hook.vtprune_register(registrar=registrar)
