"""Why a name of a third party is not there, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtprune.core.plugins.hooks import GROUP
from vtprune.core.plugins.plugin import Plugin, canonical
from vtprune.core.registry import Registry


def why_absent(kind: str, name: str, plugins: Sequence[Plugin], registry: Registry) -> str:
    """Sentences on a name that nothing has registered, each after a space; none where there is nothing to say.

    ``distribution/name`` is looked for among the plugins that are installed, active or not; a bare name among the names
    of all distributions.
    """
    origin, slash, rest = name.partition("/")
    if not slash:
        fuller = [other for other in registry.names(kind) if other.partition("/")[2] == name]
        return f" {' and '.join(map(repr, fuller))} would be a {kind}: write it in full." if fuller else ""
    if canonical(origin) == GROUP and rest in registry.names(kind):
        return f" Write {rest!r}: vtprune's own names stand alone."
    found = [plugin for plugin in plugins if plugin.distribution == canonical(origin)]
    if any(plugin.state == "active" for plugin in found):
        return _of_active(kind, f"{canonical(origin)}/{rest}", found, registry)
    if found:
        seen = "; ".join(f"{plugin.entry_point!r} {plugin.verdict}: {plugin.reason}" for plugin in found)
        details = " `vtprune plugins` shows more." if any(plugin.state == "failed" for plugin in found) else ""
        where = f"{found[0].distribution} {found[0].version}"
        return f" It looks like a name of {where}, which is installed, but its plugin {seen}.{details}"
    if "/" in rest or not _is_distribution(origin):
        return ""
    if (installed := _installed(origin)) is not None:
        return f" It looks like a name of the distribution {origin} {installed}, which is installed but has no plugin."
    return (
        f" It looks like a name of the distribution {origin!r}, of which no plugin is installed here: "
        f"`pip install {origin}`, if that is where it comes from."
    )


def _of_active(kind: str, full: str, found: Sequence[Plugin], registry: Registry) -> str:
    if full in registry.names(kind):  # only the distribution was spelt otherwise
        return f" Write {full!r}: distributions are named in lower case, with dashes."
    others = [entry.kind for plugin in found for entry in plugin.registrations if entry.name == full]
    is_one = f"; as a {' and a '.join(others)} it is" if others else ""
    broken = [str(plugin) for plugin in found if plugin.state != "active"]
    also = f" And {'; '.join(broken)}." if broken else ""
    version = f"{found[0].distribution} {found[0].version}"
    return f" {version} is installed and active, but it registers no such {kind}{is_one}.{also}"


def _is_distribution(name: str) -> bool:
    """Whether a distribution could be called so."""
    return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name) is not None and canonical(name) != GROUP


def _installed(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
