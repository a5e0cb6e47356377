"""What vtprune raises on purpose, to be caught: ``from vtprune.errors import BindingError, RecipeError``.

All derive from `VtpruneError`, as do those of single commands, tasks and studies that have no name here. Importing this
imports neither torch nor pydantic.
"""

from __future__ import annotations

from vtprune.core.errors import (
    BindingError,
    BudgetError,
    ComponentError,
    LoadError,
    NoVisionTokensError,
    PluginError,
    PluginWarning,
    RecipeError,
    ReportError,
    UnknownNameError,
    UnsupportedModeError,
    UnsupportedModelError,
    VtpruneError,
)

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
