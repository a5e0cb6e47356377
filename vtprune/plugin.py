"""Everything a plugin is written with: ``from vtprune.plugin import Scorer, Need, Signals, hookimpl``.

These names are public: they keep their meaning from one minor version to the next (docs/stability.md). What lies in
`vtprune.core` may move. Each name is loaded on first use: a registration module, which needs ``hookimpl`` alone,
imports neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vtprune.core.plugins import API, Registrar, hookimpl

if TYPE_CHECKING:
    from vtprune.core.adapter import Adapter, VisionCall, VisionInput
    from vtprune.core.budget import Budget, apportion
    from vtprune.core.component import (
        Allocation,
        AllocationRequest,
        Allocator,
        Candidates,
        Merged,
        Reducer,
        Scorer,
        Selector,
    )
    from vtprune.core.errors import ComponentError, VtpruneError
    from vtprune.core.layout import SampleLayout, Segment
    from vtprune.core.signals import Need, Signals
    from vtprune.core.spec import AllocatorSpec, ReducerSpec, ScorerSpec, SelectorSpec
    from vtprune.core.task import Region, Sample, Task, Video

_LAZY = {
    "Adapter": "adapter",
    "Allocation": "component",
    "AllocationRequest": "component",
    "Allocator": "component",
    "AllocatorSpec": "spec",
    "Budget": "budget",
    "Candidates": "component",
    "ComponentError": "errors",
    "Merged": "component",
    "Need": "signals",
    "Reducer": "component",
    "ReducerSpec": "spec",
    "Region": "task",
    "Sample": "task",
    "SampleLayout": "layout",
    "Scorer": "component",
    "ScorerSpec": "spec",
    "Segment": "layout",
    "Selector": "component",
    "SelectorSpec": "spec",
    "Signals": "signals",
    "Task": "task",
    "Video": "task",
    "VisionCall": "adapter",
    "VisionInput": "adapter",
    "VtpruneError": "errors",
    "apportion": "budget",
}
__all__ = [
    "API",
    "Adapter",
    "Allocation",
    "AllocationRequest",
    "Allocator",
    "AllocatorSpec",
    "Budget",
    "Candidates",
    "ComponentError",
    "Merged",
    "Need",
    "Reducer",
    "ReducerSpec",
    "Region",
    "Registrar",
    "Sample",
    "SampleLayout",
    "Scorer",
    "ScorerSpec",
    "Segment",
    "Selector",
    "SelectorSpec",
    "Signals",
    "Task",
    "Video",
    "VisionCall",
    "VisionInput",
    "VtpruneError",
    "apportion",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"vtprune.core.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
