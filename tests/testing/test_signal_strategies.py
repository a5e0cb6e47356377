"""Strategies for layouts, signals, budgets and requests draw what is valid, and their edge cases occur."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testing.test_strategies import QUIET, find
from vtprune.core.budget import UNITS, Budget
from vtprune.core.layout import SampleLayout
from vtprune.core.signals import KINDS, Need
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.requests import Asked
from vtprune.testing.inputs.signals import DIM, HEADS, KV_HEADS, Values, signals_for
from vtprune.testing.strategies import buckets, budgets, layouts, needs, places, requests, signals

NEEDS = frozenset({Need("features"), Need("attention", "last"), Need("grid"), Need("sample_seed")})


@QUIET
@given(layouts(), layouts(grid=False, min_images=1), layouts(vision=13))
def test_layouts_are_layouts(any_layout: SampleLayout, bare: SampleLayout, of_13: SampleLayout) -> None:
    assert of_13.vision == 13
    for layout in (any_layout, bare, of_13):
        assert layout.positions.dtype == torch.int64
        assert (layout.positions.diff() > 0).all()
        edges = [0, *(segment.stop for segment in layout.segments)]
        assert [segment.start for segment in layout.segments] == edges[:-1]
        assert edges[-1] == layout.vision
        assert [segment.index for segment in layout.segments] == list(range(len(layout.segments)))
        for segment in layout.segments:
            assert len(segment) > 0
            assert segment.grid is None or torch.tensor(segment.grid).prod() == len(segment)
    assert any_layout.coordinates().shape == (any_layout.vision, 4)


@pytest.mark.parametrize(
    "edge",
    [
        lambda layout: not layout.segments,
        lambda layout: len(layout.segments) > 2 and len({len(segment) for segment in layout.segments}) > 2,
        lambda layout: any(len(segment) == 1 for segment in layout.segments),
        lambda layout: any(segment.kind == "video" for segment in layout.segments),
        lambda layout: len(layout.segments) > len({segment.image for segment in layout.segments}),
        lambda layout: any(segment.row_ends for segment in layout.segments),
    ],
    ids=["no image", "unequal images", "one token", "video", "crops", "separators"],
)
def test_layouts_have_edges(edge: Callable[[Any], bool]) -> None:
    assert edge(find(layouts(), edge, shrunk=False))


@QUIET
@given(buckets(), buckets(dropped=False))
def test_buckets_are_what_the_engine_hands_over(bucket: Bucket, whole: Bucket) -> None:
    assert bucket.alive.shape == (bucket.batch, bucket.vision)
    assert bucket.vision > 0
    assert len({layout.vision for layout in bucket.layouts}) == 1
    assert (bucket.alive.diff(dim=1) > 0).all()
    assert (bucket.alive < bucket.layouts[0].vision).all()
    assert whole.vision == whole.layouts[0].vision
    assert sum(bucket.sizes) == bucket.vision


def test_buckets_have_edges() -> None:
    def unlike(bucket: Bucket) -> bool:
        return bucket.batch > 1 and not torch.equal(bucket.alive[0], bucket.alive[1])

    assert unlike(find(buckets(), unlike, shrunk=False))
    assert 0 in find(buckets(), lambda bucket: 0 in bucket.sizes, shrunk=False).sizes


@QUIET
@given(st.data())
def test_signals_have_the_shapes_that_sites_give(data: st.DataObject) -> None:
    wanted = data.draw(st.frozensets(needs(), max_size=6)) | NEEDS
    given_signals = data.draw(signals(wanted))
    batch, vision = given_signals.alive.shape
    shapes = {
        "features": (batch, vision, DIM),
        "keys": (batch, KV_HEADS, vision, DIM),
        "values": (batch, KV_HEADS, vision, DIM),
        "queries": (batch, HEADS, vision, DIM),
        "attention": (batch, HEADS, vision),
        "vision_attention": (batch, HEADS, vision),
        "text": (batch, DIM),
        "grid": (batch, vision, 4),
        "sample_seed": (batch,),
        "annotation": (batch, vision),
    }
    assert set(shapes) == set(KINDS)
    for need in wanted:
        tensor = given_signals.get(need)
        assert tuple(tensor.shape) == shapes[need.kind]
        assert not tensor.is_floating_point() or tensor.isfinite().all()
        if need.kind in ("attention", "vision_attention"):
            assert tensor.dtype == torch.float32
            assert (tensor >= 0).all()
            assert (tensor.sum(-1) <= 1 + 1e-5).all()
    assert given_signals.read == wanted


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("constant", lambda x: x.unique().numel() == 1 and x.abs().sum() > 0),
        ("zeros", lambda x: not x.any()),
        ("huge", lambda x: 1e4 < x.abs().max() <= 6e4),
        ("tiny", lambda x: 0 < x.abs().max() < torch.finfo(torch.float32).tiny),
        ("one_hot", lambda x: (x != 0).sum(-1).unique().tolist() == [1]),
        ("normal", lambda x: 0.3 < x.std() < 2),
    ],
)
def test_values_are_what_they_are_called(values: Values, told: Callable[[torch.Tensor], bool]) -> None:
    assert told(signals_for([Need("features")], values=values).features())
    if values not in ("huge", "normal"):
        assert told(signals_for([Need("attention", "last")], values=values).attention())


def test_signals_that_were_not_asked_for_are_made_and_noted() -> None:
    found = signals_for([Need("features")])
    assert found.keys().shape == (3, KV_HEADS, 12, DIM)
    assert found.read == {Need("keys")}
    with pytest.raises(ValueError, match="no site offers smell"):
        found.get(Need("smell"))  # type: ignore[arg-type]


@QUIET
@given(budgets(), budgets(["keep_tokens"], most=3), budgets(["keep_ratio"]))
def test_budgets_are_budgets(budget: Budget, tokens: Budget, ratio: Budget) -> None:
    assert budget.unit in UNITS
    assert 0 <= tokens.value <= 3
    assert 0 <= ratio.value <= 1


@settings(QUIET, max_examples=100)
@given(requests())
def test_requests_are_consistent(drawn: tuple[Asked, Bucket]) -> None:
    asked, bucket = drawn
    for layer in asked.place.layers:
        request = asked.request(bucket, layer)
        assert request.target is not None
        assert 0 <= request.target <= sum(request.original)
        assert sum(request.sizes) == bucket.vision
        assert len(request.sizes) == len(request.original) == (1 if asked.scope == "joint" else len(bucket.sizes))
        assert all(0 <= size <= whole for size, whole in zip(request.sizes, request.original, strict=True))
        assert len(request.spans) == len(request.layers)
        assert request.kv_heads in (None, KV_HEADS)


def test_requests_have_edges() -> None:
    fractional = find(requests(), lambda drawn: drawn[0].target(drawn[1]).denominator > 1, shrunk=False)
    assert isinstance(fractional[0].target(fractional[1]), Fraction)
    assert find(places(), lambda place: len(set(place.spans)) > 1, shrunk=False).kv_heads is None
    assert find(places(), lambda place: place.is_input, shrunk=False).layers == (0,)
