"""How a public name is taken away: it warns for at least one minor version, then it goes (docs/stability.md).

Every deprecation states ``since``, ``removed_in`` and ``use`` as literals where it is made. A test reads them from the
source and fails in the version in which the name should be gone.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from packaging.version import Version
from typing_extensions import deprecated as _marked

T = TypeVar("T", bound=Callable[..., Any])


def notice(what: str, *, since: str, removed_in: str, use: str) -> str:
    """The sentence of a DeprecationWarning.

    Raises ValueError if ``removed_in`` leaves no minor version in which the warning is given.
    """
    first, last = Version(since), Version(removed_in)
    if (last.major, last.minor) <= (first.major, first.minor) or last.micro:
        raise ValueError(
            f"{what} is deprecated since {since} and would go in {removed_in}; it has to warn for one minor version at "
            f"least, and goes in a release X.Y.0"
        )
    return f"{what} is deprecated since vtprune {since} and will be removed in {removed_in}; use {use}"


def deprecated(*, since: str, removed_in: str, use: str) -> Callable[[T], T]:
    """Decorator of a function, method or class that is to go: calling it warns, where it is called.

    since, removed_in: versions of vtprune, e.g. ``"0.3"`` and ``"0.4"``; use: what takes its place.

    >>> @deprecated(since="0.3", removed_in="0.4", use="`vtprune.observe`")
    ... def watch(): ...
    """

    def mark(target: T) -> T:
        return _marked(notice(f"`{target.__qualname__}`", since=since, removed_in=removed_in, use=use))(target)

    return mark


@dataclass(frozen=True)
class Renamed:
    """A lazy attribute of a module that has another name now. target: ``"module:attribute"``; the rest as of
    `deprecated`."""

    target: str
    since: str
    removed_in: str
    use: str


def renamed(module: str, name: str, old: Mapping[str, Renamed]) -> Any:
    """For the last line of a module's ``__getattr__``: what an old name stands for, with a DeprecationWarning.

    module: the module's ``__name__``; old: its former names. Raises AttributeError for a name that is not among them.
    """
    if (entry := old.get(name)) is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    text = notice(f"`{module}.{name}`", since=entry.since, removed_in=entry.removed_in, use=entry.use)
    # Two frames up: past this function and the module's __getattr__, to the line that reads the attribute.
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    target, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(target), attribute)
