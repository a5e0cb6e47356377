"""Signals: for any needs, on any bucket, ordinary and extreme."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import torch
from hypothesis import strategies as st

from vtprune.core.component import Component
from vtprune.core.signals import KINDS, QUERIES, Need, TextTokens
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.signals import Offer, Values, signals_for
from vtprune.testing.strategies.layouts import buckets

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def needs(kinds: Iterable[str] = KINDS) -> st.SearchStrategy[Need]:
    """Needs that exist, of these kinds."""
    layers = st.none() | st.integers(0, 7)
    of_kind: dict[str, st.SearchStrategy[Need]] = {
        "attention": st.builds(Need, st.just("attention"), st.sampled_from(QUERIES), layers),
        "vision_attention": st.builds(
            Need, st.just("vision_attention"), st.sampled_from(["cls", "received"]), st.integers(-4, 7)
        ),
        "text": st.builds(Need, st.just("text"), st.sampled_from(get_args(TextTokens))),
    }
    return st.one_of([of_kind.get(kind, st.builds(Need, st.just(kind))) for kind in kinds])


@st.composite
def signals(
    draw: st.DrawFn,
    component: Component | frozenset[Need],
    bucket: Bucket | None = None,
    *,
    values: Iterable[Values] = get_args(Values),
    half: bool = True,
) -> Offer:
    """Signals with everything that a component (or a set of needs) declares.

    bucket: the samples; by default drawn by `buckets`, without a grid here and there if none is needed. values: what
    the numbers may be like, see `vtprune.testing.inputs.signals.Values`. half: whether they may be in half precision.
    """
    wanted = component.needs() if isinstance(component, Component) else component
    grid = Need("grid") in wanted
    return signals_for(
        wanted,
        draw(buckets(grid=grid or draw(st.booleans()))) if bucket is None else bucket,
        seed=draw(st.integers(0, 2**31)),
        dtype=draw(st.sampled_from(DTYPES if half else DTYPES[:1])),
        values=draw(st.sampled_from(list(values))),
    )
