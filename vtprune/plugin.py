"""Everything a plugin is written with: ``from vtprune.plugin import Scorer, Need, Signals, hookimpl``.

These names are public: they keep their meaning from one minor version to the next (docs/stability.md). What lies in
`vtprune.core` may move. Each name is loaded on first use: a registration module, which needs ``hookimpl`` alone,
imports neither torch nor pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtprune.core.lazy import lazy
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
    "Adapter": "vtprune.core.adapter",
    "Allocation": "vtprune.core.component",
    "AllocationRequest": "vtprune.core.component",
    "Allocator": "vtprune.core.component",
    "AllocatorSpec": "vtprune.core.spec",
    "Budget": "vtprune.core.budget",
    "Candidates": "vtprune.core.component",
    "ComponentError": "vtprune.core.errors",
    "Merged": "vtprune.core.component",
    "Need": "vtprune.core.signals",
    "Reducer": "vtprune.core.component",
    "ReducerSpec": "vtprune.core.spec",
    "Region": "vtprune.core.task",
    "Sample": "vtprune.core.task",
    "SampleLayout": "vtprune.core.layout",
    "Scorer": "vtprune.core.component",
    "ScorerSpec": "vtprune.core.spec",
    "Segment": "vtprune.core.layout",
    "Selector": "vtprune.core.component",
    "SelectorSpec": "vtprune.core.spec",
    "Signals": "vtprune.core.signals",
    "Task": "vtprune.core.task",
    "Video": "vtprune.core.task",
    "VisionCall": "vtprune.core.adapter",
    "VisionInput": "vtprune.core.adapter",
    "VtpruneError": "vtprune.core.errors",
    "apportion": "vtprune.core.budget",
    "build": "vtprune.core.spec",
    "recognised_images": "vtprune.core.recognised_images:images",
    "unique_images": "vtprune.adapters.sharing",
    "unique_packed": "vtprune.adapters.sharing",
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

__getattr__, __dir__ = lazy(__name__, _LAZY)
