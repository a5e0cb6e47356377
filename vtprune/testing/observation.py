"""What a component says and does on many small inputs, without a model: data to compare.

The checks that concern every kind of component ask one question in many ways: does it do the same again, does it do
something else with another parameter? `observe` answers for any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from fractions import Fraction
from itertools import islice
from operator import methodcaller
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vtprune.core.budget import Budget
from vtprune.core.component import (
    AllocationRequest,
    Allocator,
    Candidates,
    Component,
    Reducer,
    Scorer,
    Selector,
)
from vtprune.core.errors import VtpruneError
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need, Signals
from vtprune.core.spec import BASES
from vtprune.core.task import Task
from vtprune.testing.inputs.signals import DIM, KV_HEADS

HEADS, DEPTH = 4, 4
GRIDS = ((1, 3, 4), (1, 2, 4))
SIZES = tuple(t * h * w for t, h, w in GRIDS)
BUDGETS: tuple[Budget | None, ...] = (
    Budget(unit="keep_ratio", value=0.5),
    None,
    Budget(unit="keep_tokens", value=7),
    Budget(unit="mean_tokens_over_layers", value=6),
    Budget(unit="kv_bytes_ratio", value=0.5),
    Budget(unit="flops_ratio", value=0.7),
)
MOST_SAMPLES = 24
"""Of a task, that are looked at."""

Case = Callable[[Component], Any]
"""One input: returns what the component makes of it."""


def declared(component: Component) -> dict[str, Any]:
    """What a component says of itself: its needs, every property of its kind, its revision."""
    base = BASES[component.kind]
    found = {name: getattr(component, name) for name, member in vars(base).items() if isinstance(member, property)}
    found |= {"kind": component.kind, "revision": component.revision, "needs": frozenset(component.needs())}
    if isinstance(component, Allocator):
        found["budgets"] = tuple(component.budget_problem(budget) is None for budget in BUDGETS)
    if isinstance(component, Reducer):
        found["sites"] = frozenset(component.sites)
    if isinstance(component, Task):
        found["max_new_tokens"] = component.max_new_tokens
        asked = {"fingerprint": (), "groups": (), "has_regions": (None,)}
        for name, arguments in asked.items():
            found[name] = outcome(methodcaller(name, *arguments), component)
    return found


def observe(component: Component) -> Iterator[Any]:
    """What a component makes of each input of its kind; a deliberate error counts as its type."""
    for case in cases(component):
        yield outcome(case, component)


def outcome(case: Case, component: Component) -> Any:
    """What a component makes of one input."""
    try:
        return case(component)
    except VtpruneError as error:
        return type(error).__name__


def cases(component: Component) -> Sequence[Case]:
    """Inputs of a component's kind, always the same ones."""
    return _CASES[component.kind](component)


def signals(needs: frozenset[Need], seed: int, *, batch: int = 2, near: bool = False) -> Signals:
    """Every signal that is needed, drawn from a seed, of samples with two images each.

    near: features, keys and values lie close to one of three directions.
    """
    segments, start = [], 0
    for index, (size, grid) in enumerate(zip(SIZES, GRIDS, strict=True)):
        segments.append(Segment(index, start, start + size, grid, image=index))
        start += size
    layout = SampleLayout(torch.arange(2, 2 + start), tuple(segments))
    layouts = (layout,) * batch
    tensors = {need: _signal(need, layouts, seed, near) for need in sorted(needs, key=str)}
    return Signals.of(tensors, layouts, layer=2, kv_heads=KV_HEADS)


def _signal(need: Need, layouts: tuple[SampleLayout, ...], seed: int, near: bool) -> Tensor:
    batch, vision = len(layouts), layouts[0].vision
    generator = torch.Generator().manual_seed(seed + sum(map(ord, str(need))))
    if need.kind == "grid":
        return torch.stack([layout.coordinates() for layout in layouts])
    if need.kind == "sample_seed":
        return torch.randint(2**31, (batch,), generator=generator)
    if need.kind == "annotation":
        return torch.rand(batch, vision, generator=generator)
    if need.kind in ("attention", "vision_attention"):
        share = torch.rand(batch, HEADS, 1, generator=generator)  # the rest of a row falls on text
        return share * torch.randn(batch, HEADS, vision, generator=generator).softmax(-1)
    if need.kind == "text":
        return torch.randn(batch, DIM, generator=generator)
    heads = {"features": (), "queries": (HEADS,)}.get(need.kind, (KV_HEADS,))
    return _points((batch, *heads, vision), generator, near)


def _points(shape: tuple[int, ...], generator: torch.Generator, near: bool) -> Tensor:
    points = torch.randn(*shape, DIM, generator=generator)
    if not near:
        return points
    centres = torch.randn(3, DIM, generator=generator)
    return centres[torch.randint(3, shape, generator=generator)] + 0.2 * points


def _scorer_cases(component: Component) -> list[Case]:
    def case(seed: int, near: bool) -> Case:
        def score(scorer: Component) -> Any:
            assert isinstance(scorer, Scorer)
            return scorer.score(signals(scorer.needs(), seed, near=near))

        return score

    return [case(seed, near) for seed in range(3) for near in (False, True)]


def _allocator_cases(component: Component) -> list[Case]:
    chosen = [*((layer,) for layer in range(DEPTH)), *(tuple(range(first, DEPTH)) for first in range(DEPTH - 1))]

    def case(budget: Budget | None, layers: tuple[int, ...], sizes: tuple[int, ...], heads: int | None) -> Case:
        total = sum(sizes)
        ratio = Fraction(1, 2) if budget is None or budget.value < 1 else Fraction(int(budget.value), total)
        spans = (1,) * len(layers) if heads else tuple(b - a for a, b in zip(layers, (*layers[1:], DEPTH), strict=True))
        target = None if budget is None else ratio * total

        def allocate(allocator: Component) -> Any:
            assert isinstance(allocator, Allocator)
            if allocator.budget_problem(budget) is not None:
                return "refused"
            seen = []
            for layer in layers:
                request = AllocationRequest(target, sizes, sizes, layer, layers, spans, DEPTH, heads, budget)
                made = allocator.allocate(request, signals(allocator.needs(), 11 * layer))
                seen.append((made.counts, dict(made.diagnostics)))
            return seen

        return allocate

    fitting = [budget for budget in BUDGETS[:4] if component.budget_problem(budget) is None]  # type: ignore[attr-defined]
    return [
        case(budget, layers, sizes, heads)
        for budget in fitting[:2] or [None]
        for layers in chosen
        for sizes, heads in ((SIZES, None), (SIZES, KV_HEADS), ((sum(SIZES),), None), ((101, 31), None))
    ]


def _selector_cases(component: Component) -> list[Case]:
    def case(seed: int, near: bool, share: float, kind: str) -> Case:
        def select(selector: Component) -> Any:
            assert isinstance(selector, Selector)
            generator = torch.Generator().manual_seed(seed)
            rows, vision = 3, sum(SIZES)
            scores = torch.randn(rows, vision, generator=generator)
            scores = {"any": scores, "share": scores.softmax(-1), "tied": scores.round()}[kind]
            protected = torch.rand(rows, vision, generator=generator) < 0.1 * (seed % 2)
            counts = torch.full((rows,), round(share * vision)).maximum(protected.sum(-1))
            source = selector.feature_source
            features = None if source is None else _points((rows, vision), generator, near)
            return selector.select(
                Candidates(counts, vision, scores if selector.uses_scores else None, features, protected)
            )

        return select

    kinds = ("any", "share", "tied")
    return [case(s, n, share, k) for s in range(3) for n in (False, True) for share in (0.3, 0.8) for k in kinds]


def _reducer_cases(component: Component) -> list[Case]:
    def case(seed: int, near: bool) -> Case:
        def merge(reducer: Component) -> Any:
            assert isinstance(reducer, Reducer)
            generator = torch.Generator().manual_seed(seed)
            features = _points((2, sum(SIZES)), generator, near)
            keep = torch.rand(2, sum(SIZES), generator=generator) < 0.5
            sizes = torch.randint(1, 4, (2, sum(SIZES)), generator=generator).float()
            made = reducer.merge(features, keep, sizes)
            return None if made is None else (made.features[keep], made.sizes[keep])

        return merge

    return [case(seed, near) for seed in range(3) for near in (False, True)]


def _task_cases(component: Component) -> list[Case]:
    def first(task: Component) -> Any:
        assert isinstance(task, Task)
        seen = []
        for sample in islice(task.samples(), MOST_SAMPLES):
            answers = (sample.references[0], f"so: {sample.references[0]}.", "none of this", "")
            seen.append((sample, [task.score(sample, answer) for answer in answers]))
        return seen

    return [first]


_CASES: Mapping[str, Callable[[Component], list[Case]]] = {
    "scorer": _scorer_cases,
    "allocator": _allocator_cases,
    "selector": _selector_cases,
    "reducer": _reducer_cases,
    "task": _task_cases,
}


def same(one: Any, other: Any) -> bool:
    """Whether two observations agree: tensors in dtype, shape and, within rounding, values; pictures in every pixel."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
            return False
        if not one.is_floating_point():
            return bool(torch.equal(one, other))
        return bool(torch.allclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True))
    if type(one) is not type(other):
        return False
    if isinstance(one, Image.Image):
        return (one.mode, one.size) == (other.mode, other.size) and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return bool(one == other)
