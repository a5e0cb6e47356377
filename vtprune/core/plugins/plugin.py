"""What became of one installed plugin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vtprune.core.registry import Registration

State = Literal["active", "failed", "disabled", "incompatible"]


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group ``vtprune`` (or the built-ins) and what became of it.

    distribution: canonical name (lower case, single dashes). entry_point: its name; module: what it names.
    state: *active* (its names are there), *failed* (an error while it was imported or registered), *disabled* (switched
    off by the environment), *incompatible* (made for another vtprune). reason: one sentence why it is not active.
    traceback: of a failed one. seconds: for importing and registering. heavy: large packages that its registration
    module was the first to import. registrations: what it registered. requires: the versions of vtprune that its
    distribution asks for, e.g. ``>=0.1,<0.3``.
    """

    distribution: str
    version: str
    entry_point: str
    module: str
    state: State = "active"
    reason: str = ""
    traceback: str = ""
    seconds: float = 0.0
    heavy: tuple[str, ...] = ()
    registrations: tuple[Registration, ...] = ()
    requires: str = ""
    error: BaseException | None = None

    @property
    def is_fault(self) -> bool:
        """Whether it should work and does not."""
        return self.state in ("failed", "incompatible")

    @property
    def verdict(self) -> str:
        """The state as a predicate: ``is active``, ``failed``."""
        return "failed" if self.state == "failed" else f"is {self.state}"

    def __str__(self) -> str:
        where = f"plugin {self.entry_point!r} of {self.distribution} {self.version}"
        return f"{where} {self.verdict}" + (f": {self.reason}" if self.reason else "")


def canonical(distribution: str) -> str:
    """A distribution's name as the packaging specifications normalise it: ``My_Plugin`` to ``my-plugin``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
