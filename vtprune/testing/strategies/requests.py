"""Requests to allocators: any place of a stage, any budget within reach, any bucket."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import assume
from hypothesis import strategies as st

from vtprune.core.budget import UNITS
from vtprune.core.errors import BudgetError
from vtprune.core.layout import SampleLayout
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.requests import DEPTH, Asked, Place
from vtprune.testing.inputs.signals import KV_HEADS
from vtprune.testing.strategies.budgets import budgets
from vtprune.testing.strategies.layouts import buckets, layouts


@st.composite
def places(draw: st.DrawFn) -> Place:
    """Where a stage acts in a model of four decoder layers: before it, at some of its layers, or at their caches."""
    if draw(st.integers(0, 4)) == 0:
        return Place("projector.output", (0,), is_input=True)
    layers = tuple(sorted(draw(st.sets(st.integers(0, DEPTH - 1), min_size=1))))
    name = f"llm.layers[{','.join(map(str, layers))}]"
    return Place(f"{name}.kv", layers, KV_HEADS) if draw(st.booleans()) else Place(name, layers)


@st.composite
def requests(
    draw: st.DrawFn, units: Iterable[str] = UNITS, *, place: Place | None = None, dropped: bool = True
) -> tuple[Asked, Bucket]:
    """What an allocator is asked, and the samples: ``asked.request(bucket, layer)`` is the request at a layer.

    units: of the budget, which is within reach. place: default: any. dropped: whether tokens may be gone already. Where
    the scope is ``image``, the samples have the same images.
    """
    scope = draw(st.sampled_from(["joint", "image"]))
    bucket = draw(buckets(dropped=dropped))
    if scope == "image":
        alike: SampleLayout = draw(layouts(min_images=1))
        whole = Bucket((alike,) * draw(st.integers(1, 3)))
        left = draw(st.sets(st.sampled_from(range(alike.vision)), min_size=1)) if dropped else range(alike.vision)
        bucket = Bucket(whole.layouts, whole.alive[:, sorted(left)])
    asked = Asked(
        draw(places()) if place is None else place,
        draw(budgets(units, most=sum(bucket.original))),
        scope,  # type: ignore[arg-type]
    )
    try:
        asked.target(bucket)
    except BudgetError:
        assume(False)
    return asked, bucket
