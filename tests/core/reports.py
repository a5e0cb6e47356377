"""Hand-made run reports: what the engine would write, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.recipe import Recipe
from vtprune.core.report import Event, Report

DROP = {
    "name": "half",
    "stages": [{"site": "projector.output", "scorer": "random", "budget": 0.5}],
}
HEADS = {
    "name": "heads",
    "stages": [{"site": "llm.layers[1:].kv", "scorer": {"name": "attention", "head_reduction": "none"}, "budget": 0.5}],
}


def layout(*grids: tuple[int, int, int] | None, tokens: int = 4, before: int = 2) -> SampleLayout:
    """A sample with one image per grid; an image without a grid has ``tokens`` vision tokens."""
    segments, start = [], 0
    for index, grid in enumerate(grids):
        size = tokens if grid is None else grid[0] * grid[1] * grid[2]
        segments.append(Segment(index, start, start + size, grid))
        start += size
    return SampleLayout(torch.arange(before, before + start), tuple(segments))


def event(
    stage: int,
    layer: int,
    sample: int,
    *kept: Sequence[int],
    requested: Sequence[int] | None = None,
    **diagnostics: float,
) -> Event:
    """An event that kept the given indices: one list for all heads, or one per KV head."""
    tensors = tuple(torch.tensor(list(indices), dtype=torch.int64) for indices in kept)
    return Event(stage, layer, sample, tuple(requested or [len(k) for k in kept]), tensors, diagnostics)


def report(
    recipe: Mapping[str, Any], layouts: Sequence[SampleLayout], events: Sequence[Event], depth: int = 4, **fields: Any
) -> Report:
    """A report over ``depth`` layers with 2 KV heads; ``fields`` replaces any of its fields."""
    parsed = Recipe.parse(recipe)
    sizes = [each.vision for each in layouts]
    defaults: dict[str, Any] = {
        "recipe": parsed,
        "family": "llava",
        "model": "LlavaForConditionalGeneration",
        "depth": depth,
        "kv_heads": 2,
        "layouts": list(layouts),
        "text_tokens": [7] * len(layouts),
        "events": list(events),
        "stage_seconds": [0.0015] * len(parsed.stages),
        "vision_tokens": [[size] * depth for size in sizes],
        "kv_tokens": [[[size, size]] * depth for size in sizes],
        "kv_bytes": 512,
        "kv_bytes_full": 2048,
        "flops": 3_000_000,
        "flops_full": 12_000_000,
        "flops_parts": {"vision": 1, "prefill": 2, "prefill_full": 3, "decode": 4, "decode_full": 5},
        "new_tokens": 3,
        "versions": {"vtprune": "0.1.0"},
    }
    return Report(**{**defaults, **fields})
