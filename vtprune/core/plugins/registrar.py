"""What a plugin's hook receives."""

from __future__ import annotations

from vtprune.core.errors import PluginError, did_you_mean
from vtprune.core.registry import KINDS, Registration, Registry


class Registrar:
    """Adds names on behalf of one distribution.

    prefix: what stands before every name, ``"distribution/"``; empty for vtprune's own. module: the one whose hook
    is running.
    """

    def __init__(self, registry: Registry, prefix: str, origin: str, release: str, module: str) -> None:
        self._registry, self._prefix = registry, prefix
        self._origin, self._release, self._module = origin, release, module

    def add(self, kind: str, name: str, target: str, *, summary: str, paper: str | None = None) -> None:
        """Register ``name``; names of other distributions than vtprune appear as ``distribution/name``.

        kind: scorer, allocator, selector, reducer, adapter, recipe or task. target: ``"module:attribute"``, imported on
        first use; for a recipe ``"package:file.yaml"``. summary: one line for listings. Raises PluginError for a bad
        kind, name, target or summary, and for a name that is registered already.
        """
        if kind not in KINDS:
            raise PluginError(f"{self._origin}: unknown kind {kind!r} of {name!r}.{did_you_mean(str(kind), KINDS)}")
        if self._prefix and isinstance(name, str) and name.startswith(self._prefix):
            short = name.removeprefix(self._prefix)
            raise PluginError(f"{self._origin}: write {short!r} for {name!r}; the distribution is put before it")
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.replace("-", "_").split(".")):
            raise PluginError(f"{self._origin}: {name!r} is not a usable name; use letters, digits, _, - and dots")
        if not isinstance(target, str) or not all(target.partition(":")) or target.count(":") != 1:
            raise PluginError(f"{self._origin}: target {target!r} of {name!r} must look like 'module:attribute'")
        if not isinstance(summary, str) or not summary.strip() or "\n" in summary:
            raise PluginError(f"{self._origin}: {kind} {name!r} needs a summary of one line, got {summary!r}")
        self._registry.add(
            Registration(
                kind, self._prefix + name, target, summary, paper, self._origin, self._release, module=self._module
            )
        )
