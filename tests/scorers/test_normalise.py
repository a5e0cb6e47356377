"""Normalise and Negate against plain loops in float64."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scorers.support import Given, given_signals, made_up
from vtprune.core.errors import ComponentError
from vtprune.core.spec import build
from vtprune.scorers.attention import Attention
from vtprune.scorers.normalise import Negate, Normalise

INF, NAN = math.inf, math.nan
METHODS = ["min_max", "softmax", "rank", "z_score"]
# Few distinct values, so that ties are common.
values = st.lists(st.one_of(st.floats(-8, 8, width=32), st.sampled_from([-1.0, 0.0, 2.0])), min_size=1, max_size=9)


def loops(method: str, x: list[float], temperature: float = 1.0) -> list[float]:
    low, high, n = min(x), max(x), len(x)
    if method == "softmax":
        powers = [math.exp((value - high) / temperature) for value in x]
        return [power / math.fsum(powers) for power in powers]
    if method == "rank":
        places = [[place for place, other in enumerate(sorted(x)) if other == value] for value in x]
        return [0.5 if n == 1 else sum(shared) / len(shared) / (n - 1) for shared in places]
    if low == high:
        return [0.0] * n
    if method == "min_max":
        return [(value - low) / (high - low) for value in x]
    return [(value - statistics.fmean(x)) / statistics.pstdev(x) for value in x]


def normalised(method: str, table: list, temperature: float = 1.0, per_head: bool = False) -> torch.Tensor:
    scorer = Normalise(scorer=Given(values=tuple(table), per_head=per_head), method=method, temperature=temperature)
    vision = len(table[0][0]) if per_head else len(table[0])
    return scorer.score(given_signals(len(table), vision))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(x=values)
def test_against_loops(method: str, x: list[float]) -> None:
    expected = torch.tensor(loops(method, x))
    torch.testing.assert_close(normalised(method, [x])[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 30.0])
def test_temperature(temperature: float) -> None:
    x = [0.3, -2.0, 5.0, 4.9]
    found = normalised("softmax", [x], temperature)[0]
    torch.testing.assert_close(found, torch.tensor(loops("softmax", x, temperature)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(x=values)
def test_order_and_ties_survive(method: str, x: list[float]) -> None:
    found = normalised(method, [x])[0].tolist()
    for a, b in zip(range(len(x)), range(1, len(x)), strict=False):
        if x[a] == x[b]:
            assert found[a] == found[b]
        elif x[a] < x[b]:
            assert found[a] < found[b] if method == "rank" else found[a] <= found[b]
        else:
            assert found[a] > found[b] if method == "rank" else found[a] >= found[b]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7e5])
@pytest.mark.parametrize("vision", [1, 7])
def test_constant_scores(method: str, constant: float, vision: int) -> None:
    expected = {"min_max": 0.0, "z_score": 0.0, "softmax": 1 / vision, "rank": 0.5}[method]
    torch.testing.assert_close(normalised(method, [[constant] * vision])[0], torch.full((vision,), expected))


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_normalised_one_by_one(method: str) -> None:
    small, large = [0.1, 0.3, 0.2], [100.0, 700.0, -50.0]
    together = normalised(method, [small, large])
    for row, alone in zip(together, (small, large), strict=True):
        assert torch.equal(row, normalised(method, [alone])[0])


@pytest.mark.parametrize("method", METHODS)
def test_heads_are_normalised_one_by_one(method: str) -> None:
    table = [[[0.1, 0.3, 0.2], [9.0, 7.0, 8.0]], [[1.0, 1.0, 1.0], [0.0, 5.0, 0.0]]]
    found = normalised(method, table, per_head=True)
    expected = [[loops(method, row) for row in sample] for sample in table]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["min_max", "z_score"])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_scale_does_not_matter(method: str, scale: float) -> None:
    x = [1.0, 2.0, 5.0]
    found = normalised(method, [[value * scale for value in x]])[0]
    torch.testing.assert_close(found, torch.tensor(loops(method, x)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_refused(method: str) -> None:
    with pytest.raises(ComponentError, match="NaN from scorer 'Given'"):
        normalised(method, [[1.0, NAN, 2.0]])


@pytest.mark.parametrize("method", ["min_max", "softmax", "z_score"])
@pytest.mark.parametrize("infinity", [INF, -INF])
def test_infinities_are_refused_except_by_rank(method: str, infinity: float) -> None:
    with pytest.raises(ComponentError, match=f"method {method} needs finite scores.*gave 1 infinite"):
        normalised(method, [[1.0, infinity, 2.0]])
    assert normalised("rank", [[1.0, infinity, 2.0]])[0, 1] == (1.0 if infinity > 0 else 0.0)


def test_negate() -> None:
    scorer = Negate(scorer=Given(values=((1.0, -INF, 0.5),)))
    assert scorer.score(given_signals(1, 3)).tolist() == [[-1.0, INF, -0.5]]


@pytest.mark.parametrize("outer", [{"name": "negate"}, {"name": "normalise", "method": "rank"}])
def test_granularity_and_needs_are_those_inside(outer: dict) -> None:
    for inside in (Attention(head_reduction="none"), Attention(query="text", layer=1)):
        scorer = build("scorer", {**outer, "scorer": inside})
        assert scorer.granularity == inside.granularity
        assert scorer.needs() == inside.needs()
        assert scorer.score(made_up(scorer)).shape == inside.score(made_up(inside)).shape


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "rank", "temperature": 2.0}, "acts only with method: softmax, but method is rank"),
        ({"method": "softmax", "temperature": 0}, "greater than 0"),
        ({"method": "softmax", "temperature": INF}, "finite number"),
        ({"method": "l2"}, "'min_max', 'softmax', 'rank' or 'z_score'"),
        ({}, "needs the parameter 'method'"),
    ],
)
def test_refuses(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("scorer", {"name": "normalise", "scorer": "random", **parameters})
