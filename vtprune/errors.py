"""What vtprune raises on purpose, to be caught: ``from vtprune.errors import BindingError, RecipeError``.

All derive from `VtpruneError`, as do those of single commands, tasks and studies that have no name here. Importing this
imports neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import (
    BindingError,
    BudgetError,
    ComponentError,
    LoadError,
    NoVisionTokensError,
    PluginError,
    PluginWarning,
    RecipeError,
    UnknownNameError,
    UnsupportedModeError,
    UnsupportedModelError,
    VtpruneError,
)

if TYPE_CHECKING:
    from vtprune.core.report import ReportError

_LAZY = {"ReportError": "vtprune.core.report"}
__all__ = [
    "BindingError",
    "BudgetError",
    "ComponentError",
    "LoadError",
    "NoVisionTokensError",
    "PluginError",
    "PluginWarning",
    "RecipeError",
    "ReportError",
    "UnknownNameError",
    "UnsupportedModeError",
    "UnsupportedModelError",
    "VtpruneError",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
