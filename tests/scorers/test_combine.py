"""WeightedSum and Product: arithmetic, broadcasting over heads, and who is to blame for NaN."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scorers.support import KV_HEADS, Given, given_signals, made_up
from vtprune.core.errors import ComponentError
from vtprune.core.signals import Need
from vtprune.core.spec import build, dump
from vtprune.scorers.attention import Attention
from vtprune.scorers.combine import Product, WeightedSum
from vtprune.scorers.key_norm import KeyNorm
from vtprune.scorers.similarity import Similarity

INF, NAN = math.inf, math.nan
finite = st.floats(-10, 10, width=32)


def rows(*values: float) -> Given:
    return Given(values=(values,))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_against_loops(data: st.DataObject) -> None:
    parts, vision = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 5))
    table = data.draw(st.lists(st.tuples(*[finite] * vision), min_size=parts, max_size=parts))
    weights = data.draw(st.lists(finite, min_size=parts, max_size=parts).filter(any))
    scorers = tuple(rows(*values) for values in table)
    total = [math.fsum(w * values[i] for w, values in zip(weights, table, strict=True)) for i in range(vision)]
    times = [math.prod(values[i] for values in table) for i in range(vision)]
    signals = given_signals(1, vision)
    found = WeightedSum(scorers=scorers, weights=tuple(weights)).score(signals)[0]
    torch.testing.assert_close(found, torch.tensor(total), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Product(scorers=scorers).score(signals)[0], torch.tensor(times), rtol=1e-4, atol=1e-4)


def test_needs_are_the_union() -> None:
    scorer = WeightedSum(scorers=(Attention(), Similarity()), weights=(1, 1))
    assert scorer.needs() == {Need("attention", "last"), Need("features"), Need("text", "last")}
    assert scorer.granularity == "token"


@pytest.mark.parametrize("kind", ["sum", "product"])
def test_token_parts_are_repeated_for_each_kv_head(kind: str) -> None:
    parts = (Similarity(), KeyNorm(per_head=True))
    scorer = WeightedSum(scorers=parts, weights=(2, -1)) if kind == "sum" else Product(scorers=parts)
    assert scorer.granularity == "head"
    signals = made_up(scorer)
    token, head = (part.score(signals) for part in parts)
    for kv_head in range(KV_HEADS):
        expected = 2 * token - head[:, kv_head] if kind == "sum" else token * head[:, kv_head]
        torch.testing.assert_close(scorer.score(signals)[:, kv_head], expected)


def test_infinities_pass_where_they_mean_something() -> None:
    signals = given_signals(1, 3)
    parts = (rows(1.0, -INF, INF), rows(2.0, 3.0, 4.0))
    assert WeightedSum(scorers=parts, weights=(1, 1)).score(signals).tolist() == [[3.0, -INF, INF]]
    assert Product(scorers=parts).score(signals).tolist() == [[2.0, -INF, INF]]


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (WeightedSum(scorers=(rows(1, 1), rows(0, NAN)), weights=(1, 1)), r"part 1 \(Given\) of weighted_sum"),
        (WeightedSum(scorers=(rows(NAN, 1), rows(0, 1)), weights=(1, 1)), "part 0 .*NaN itself"),
        (WeightedSum(scorers=(rows(1, INF), rows(0, 1), rows(1, -INF)), weights=(1, 1, 1)), "part 2 .*opposite"),
        (WeightedSum(scorers=(rows(1, 1), rows(0, INF)), weights=(1, 0)), "part 1 .*weight 0 on an infinity"),
        (Product(scorers=(rows(INF, 1), rows(0, 1))), r"part 1 \(Given\) of product.*0 by an infinity"),
    ],
)
def test_nan_is_blamed_on_a_part(scorer: WeightedSum | Product, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        scorer.score(given_signals(1, 2))


@pytest.mark.parametrize("part", [Given(values=(1.0, 2.0)), Given(values=((1.0,),)), Given(values=(((1.0, 2.0),),))])
def test_a_part_of_the_wrong_shape_is_not_broadcast(part: Given) -> None:
    with pytest.raises(ComponentError, match=r"part 1 \(Given\) of product must give scores \[batch, vision\]"):
        Product(scorers=(rows(1, 2), part)).score(given_signals(1, 2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "weighted_sum", "scorers": [], "weights": []}, "at least 1 scorers"),
        ({"name": "weighted_sum", "scorers": ["random"], "weights": [1, 2]}, "got 2 for 1 scorers"),
        ({"name": "weighted_sum", "scorers": ["random"], "weights": [INF]}, "finite number"),
        ({"name": "weighted_sum", "scorers": ["random"], "weights": [0]}, "all zero"),
        ({"name": "product", "scorers": ["random"]}, "at least 2 scorers"),
        ({"name": "product", "scorers": ["random", "attenton"]}, "Did you mean 'attention'"),
    ],
)
def test_refuses(spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("scorer", spec)


def test_a_fault_inside_a_part_is_reported_once_with_its_place() -> None:
    with pytest.raises(ValueError, match="'heads'") as caught:
        build("scorer", {"name": "product", "scorers": ["random", {"name": "attention", "heds": 3}]})
    assert str(caught.value).startswith("scorer 'product'.scorers.1: unknown parameter 'heds'")
    assert len(str(caught.value).splitlines()) == 1


def test_deep_nesting_round_trips() -> None:
    spec = {
        "name": "product",
        "scorers": [
            {"name": "normalise", "method": "min_max", "scorer": {"name": "negate", "scorer": "similarity"}},
            {"name": "weighted_sum", "scorers": [{"name": "key_norm", "p": 3.0}], "weights": [0.5]},
        ],
    }
    scorer = build("scorer", spec)
    assert build("scorer", dump(scorer)) == scorer
    assert dump(scorer)["scorers"][1]["scorers"][0] == {"name": "key_norm", "p": 3.0, "keep": "low", "per_head": False}
