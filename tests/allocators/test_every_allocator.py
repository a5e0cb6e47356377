"""What every allocator owes: the conformance checks in every setting, and the same on inputs of hypothesis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vtprune.allocators.reattention import Reattention
from vtprune.allocators.schedule import Schedule
from vtprune.builtins import ALLOCATORS
from vtprune.core.budget import Budget
from vtprune.core.component import Allocator
from vtprune.core.plugins import registry
from vtprune.testing import Check, parametrize_with_checks
from vtprune.testing.checks.allocators import total
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.requests import Asked, chain
from vtprune.testing.inputs.signals import signals_of
from vtprune.testing.run import described
from vtprune.testing.strategies import requests, signals

MORE: list[Allocator] = [
    Reattention(rate=0.05, delta=1.0, alpha=0.5, beta=0.5),
    Reattention(rounding="half_up", query="text_after_vision"),
    Schedule(shape="linear", end=0.0),
    Schedule(shape="geometric", ratio=1.0),
    Schedule(shape="sigmoid", steepness=500.0),
    Schedule(shape="table", table={2: 0.0}),
    Schedule(shape="table", table={1: 1.0, 3: 0.01}),
]
"""Settings beside the examples."""
TRIED = [*(example for name in ALLOCATORS for example in registry().load("allocator", name).examples()), *MORE]
BUDGETED = [one for one in TRIED if one.budget_problem(Budget.model_validate(0.5)) is None]
few = settings(max_examples=30, deadline=None)


@parametrize_with_checks(*TRIED, in_model=False)
def test_conformance(component: Allocator, check: Check) -> None:
    check(component)


@pytest.mark.parametrize("allocator", BUDGETED, ids=described)
@few
@given(data=st.data())
def test_any_request(allocator: Allocator, data: st.DataObject) -> None:
    """Shape, range, finite diagnostics and the independence of samples, on whatever hypothesis comes up with."""
    asked, bucket = data.draw(requests())
    assume(asked.place.offers(allocator.needs()))
    drawn = data.draw(signals(allocator, bucket))
    for need, tensor in drawn.tensors.items():  # samples that are unlike, by far
        drawn.tensors[need] = tensor / 4.0 ** torch.arange(bucket.batch).view(-1, *[1] * (tensor.dim() - 1))
    request = asked.request(bucket, data.draw(st.sampled_from(asked.place.layers)))
    made = allocator.allocate(request, drawn)
    assert made.counts.dtype == torch.int64
    assert made.counts.shape == (bucket.batch, len(request.sizes))
    assert (made.counts >= 0).all()
    assert (made.counts <= torch.tensor(request.sizes)).all()
    assert all(values.isfinite().all() for values in made.diagnostics.values())
    sample = data.draw(st.integers(0, bucket.batch - 1))
    alone = {need: tensor[sample : sample + 1] for need, tensor in drawn.tensors.items()}
    counts = allocator.allocate(request, signals_of(alone, bucket.take([sample]))).counts
    assert torch.equal(counts[0], made.counts[sample])


@pytest.mark.parametrize("allocator", [one for one in BUDGETED if one.count_is_static], ids=described)
@few
@given(requests(dropped=False))
def test_budgets_are_met_as_nearly_as_rounding_allows(allocator: Allocator, drawn: tuple[Asked, Bucket]) -> None:
    asked, bucket = drawn
    spans, target = asked.place.spans, asked.target(bucket)
    assert target is not None
    totals = [total(counts) for counts in chain(allocator, asked, bucket)]
    short = target * sum(spans) - sum(span * count for span, count in zip(spans, totals, strict=True))
    assert 0 <= short < max(spans)
