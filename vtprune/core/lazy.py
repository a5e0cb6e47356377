"""Names of a module that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(module: str, targets: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's ``__getattr__`` and ``__dir__``.

    module: its ``__name__``; targets: public name to ``"package.module"``, or to ``"package.module:attribute"`` where
    the attribute has another name.
    """

    def load(name: str) -> Any:
        if name not in targets:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, inner = targets[name].partition(":")
        return getattr(importlib.import_module(place), inner or name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *targets})

    return load, names
