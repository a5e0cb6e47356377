"""Turning what the engine does into a `Report`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.decide import Choice
from vtprune.core.engine.devices import cuda_devices
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.layers import store_of
from vtprune.core.engine.plan import BoundStage, Plan
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.provenance import distributions, of_adapter, of_parts
from vtprune.core.report import Event, Report

PACKAGES = ("vtprune", "torch", "transformers")
HISTORY = 64
"""How many reports a run keeps, so that a long evaluation does not fill the memory."""


class Recorder:
    """Keeps the latest reports of one run: one per prompt, the newest last."""

    def __init__(self, plan: Plan, cost: CostModel) -> None:
        self.plan, self.cost = plan, cost
        adapter = of_adapter(plan.parts.adapter)
        self._components = (*([] if adapter is None else [adapter]), *of_parts(list(plan.recipe.stages)))
        self._versions = {package: version(package) for package in PACKAGES} | distributions(self._components)
        self._clock_waits = cuda_devices(plan.parts.model)
        self.reports: deque[Report] = deque(maxlen=HISTORY)
        self._copies = 1
        self._widths: dict[int, tuple[int, int, int]] = {}
        self._part = "prefill"

    @property
    def report(self) -> Report | None:
        """The report of the latest prompt."""
        return self.reports[-1] if self.reports else None

    def start(
        self, flow: Flow, copies: int, vision_flops: int, vision_flops_full: int, seconds: Mapping[int, float]
    ) -> None:
        """A prompt with vision tokens came in. Only one of the ``copies`` of a sample (beams) is reported. seconds:
        what stages inside the vision tower have taken already."""
        self._copies, self._widths = copies, {}
        samples = range(0, flow.batch, copies)
        prompt = flow.prompt.sum(1).tolist()
        vision = {"vision": vision_flops, "vision_full": vision_flops_full}
        self.reports.append(
            Report(
                recipe=self.plan.recipe,
                family=self.plan.parts.adapter.name,
                model=type(self.plan.parts.model).__name__,
                depth=self.plan.parts.depth,
                kv_heads=self.plan.kv_heads,
                layouts=[flow.layouts[sample] for sample in samples],
                text_tokens=[prompt[sample] - flow.layouts[sample].vision for sample in samples],
                events=[],
                stage_seconds=[seconds.get(stage, 0.0) for stage in range(len(self.plan.stages))],
                vision_tokens=[],
                kv_tokens=[],
                kv_bytes=0,
                kv_bytes_full=0,
                flops=vision_flops,
                flops_full=vision_flops_full,
                flops_parts={**vision, "prefill": 0, "prefill_full": 0, "decode": 0, "decode_full": 0},
                new_tokens=0,
                versions=dict(self._versions),
                components=self._components,
            )
        )

    @contextmanager
    def timed(self, stage: int) -> Iterator[None]:
        """Add what happens inside to a stage's wall time; CUDA devices are waited for."""
        started = self._now()
        try:
            yield
        finally:
            self.reports[-1].stage_seconds[stage] += self._now() - started

    def _now(self) -> float:
        for device in self._clock_waits:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def stage(self, bound: BoundStage, layer: int, choices: list[Choice], kept: list[tuple[Tensor, ...]]) -> None:
        """A stage acted at a layer."""
        report = self.reports[-1]
        for sample in range(0, len(choices), self._copies):
            choice = choices[sample]
            event = Event(
                bound.index, layer, sample // self._copies, choice.requested, kept[sample], choice.diagnostics
            )
            report.events.append(event)

    def layer(self, flow: Flow, layer: int, stored: int) -> None:
        """A decoder layer is about to compute part of a prompt: ``flow.width`` queries on that many keys and
        ``stored`` earlier ones. A layer that shares an earlier layer's keys sees as many as that one did."""
        kind = self.plan.kinds[layer]
        keys = self._widths[kind.producer][1] if kind.shares and kind.producer is not None else flow.width + stored
        self._widths[layer] = flow.width, keys, flow.length - flow.first

    def head(self, rows: int) -> None:
        """The output head is about to see ``rows`` rows."""
        if self.reports:
            self._add(self._part, rows * self.cost.head, rows * self.cost.head)

    def end(self, flow: Flow, cache: Any) -> None:
        """A forward of the language model ended. Raises UnsupportedModeError if it left out a decoder layer."""
        report, depth = self.report, len(self.cost.layers)
        if report is None:
            return
        if flow.prunable:
            self._require_every_layer(depth)
        kinds, total = self.plan.kinds, flow.past + flow.length
        done = full = flow.batch * self.cost.even(flow.length, total)
        stores = [store_of(cache, kind) for kind in kinds]
        if flow.prunable:
            queries, keys, unpruned = zip(*(self._widths[layer] for layer in range(depth)), strict=True)
            done = flow.batch * self.cost.forward(queries, keys, logits=0)
            if flow.first:
                full = flow.batch * self.cost.forward(unpruned, [total] * depth, logits=0)
        elif any(store is not None and not store.untouched for store in stores):
            stored = [0 if store is None else store.stored for store in stores]
            done = flow.batch * self.cost.forward([flow.length] * depth, stored, logits=0)
        self._part = "prefill" if flow.prunable else "decode"
        self._add(self._part, done, full)
        if not flow.prunable:
            report.new_tokens += 1
            return
        report.vision_tokens = [list(flow.entering[sample]) for sample in range(0, flow.batch, self._copies)]
        # A sliding layer forgets what lies before its window, pruned or not.
        first = [0 if store is None else store.offset for store in stores]
        report.kv_tokens = self._cached(report, flow.past, first)
        if cache is not None:
            own = [store for store, kind in zip(stores, kinds, strict=True) if kind.has_cache]
            report.kv_bytes = sum(store.nbytes for store in own if store is not None)
            report.kv_bytes_full = flow.batch * self.cost.kv_bytes([total - start for start in first])

    def _require_every_layer(self, depth: int) -> None:
        missing = [layer for layer in range(depth) if layer not in self._widths]
        if not missing:
            return
        idle = [bound for bound in self.plan.stages if not bound.is_tower and {*bound.layers} & {*missing}]
        lost = "".join(f"; stages[{bound.index}] ({bound.stage.site}) did not act there" for bound in idle)
        raise UnsupportedModeError(
            f"the forward ran {len(self._widths)} of the {depth} decoder layers (not layer "
            f"{', '.join(map(str, missing))}), and a report of all of them would be false{lost}. Expected "
            f"every layer that was there when the recipe was bound; the likely cause is code that skips or replaces "
            f"layers inside the with-block. Change the layers before vtprune.prune"
        )

    def _cached(self, report: Report, past: int, first: list[int]) -> list[list[list[int]]]:
        """``[sample][layer][kv_head]``: vision tokens that were not pruned and stand at ``first[layer]`` or later."""
        heads, depth = [kind.kv_heads if kind.has_cache else 0 for kind in self.plan.kinds], len(first)
        cached = []
        for sample, layout in enumerate(report.layouts):
            kept: list[tuple[Tensor, ...]] = [(torch.arange(layout.vision),)] * depth
            for event in report.events:
                if event.sample == sample and not self.plan.stages[event.stage].is_kv:
                    entry = 0 if self.plan.stages[event.stage].is_tower else event.layer
                    kept[entry:] = [event.kept] * (depth - entry)
            for event in report.events:
                if event.sample == sample and self.plan.stages[event.stage].is_kv:
                    kept[event.layer] = event.kept
            at = layout.positions + past
            counts = [
                [int((at[tokens] >= start).sum()) if start else len(tokens) for tokens in rows]
                for rows, start in zip(kept, first, strict=True)
            ]
            cached.append([row if len(row) > 1 else row * n for row, n in zip(counts, heads, strict=True)])
        return cached

    def _add(self, part: str, done: int, full: int) -> None:
        report = self.reports[-1]
        report.flops += done
        report.flops_full += full
        report.flops_parts[part] += done
        report.flops_parts[f"{part}_full"] += full
