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
    from vtprune.adapters.sharing import unique_images, unique_packed
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
    from vtprune.core.recognised_images import images as recognised_images
    from vtprune.core.signals import Need, Signals
    from vtprune.core.spec import AllocatorSpec, ReducerSpec, ScorerSpec, SelectorSpec, build
    from vtprune.core.task import Region, Sample, Task, Video

_LAZY = {
    "Adapter": "core.adapter",
    "Allocation": "core.component",
    "AllocationRequest": "core.component",
    "Allocator": "core.component",
    "AllocatorSpec": "core.spec",
    "Budget": "core.budget",
    "Candidates": "core.component",
    "ComponentError": "core.errors",
    "Merged": "core.component",
    "Need": "core.signals",
    "Reducer": "core.component",
    "ReducerSpec": "core.spec",
    "Region": "core.task",
    "Sample": "core.task",
    "SampleLayout": "core.layout",
    "Scorer": "core.component",
    "ScorerSpec": "core.spec",
    "Segment": "core.layout",
    "Selector": "core.component",
    "SelectorSpec": "core.spec",
    "Signals": "core.signals",
    "Task": "core.task",
    "Video": "core.task",
    "VisionCall": "core.adapter",
    "VisionInput": "core.adapter",
    "VtpruneError": "core.errors",
    "apportion": "core.budget",
    "build": "core.spec",
    "recognised_images": "core.recognised_images:images",
    "unique_images": "adapters.sharing",
    "unique_packed": "adapters.sharing",
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
    "build",
    "hookimpl",
    "recognised_images",
    "unique_images",
    "unique_packed",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, inner = _LAZY[name].partition(":")
        return getattr(importlib.import_module(f"vtprune.{module}"), inner or name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
