from __future__ import annotations

import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.allocators.requests import over_layers, request, signals, totals
from vtprune.allocators.schedule import Schedule
from vtprune.core.budget import Budget
from vtprune.core.errors import ComponentError

SHAPES = st.one_of(
    st.builds(lambda end: Schedule(shape="linear", end=end), st.floats(0, 1)),
    st.builds(lambda ratio: Schedule(shape="geometric", ratio=ratio), st.floats(0.05, 1)),
    st.builds(lambda steepness: Schedule(shape="sigmoid", steepness=steepness), st.floats(0.01, 50)),
)


class TestShapes:
    def test_geometric_is_pyramid_drop(self):
        # 50 %, 25 % and 12.5 % of 576 tokens at layers 8, 16 and 24 of 32, a mean of 168 over the layers governed
        counts = totals(
            Schedule(shape="geometric", ratio=0.5), target=168, sizes=(576,), layers=(8, 16, 24), spans=(8, 8, 8)
        )
        assert counts == [288, 144, 72]

    def test_linear_falls_in_a_straight_line_over_depth(self):
        layers = (0, 1, 2, 4)
        assert totals(Schedule(shape="linear", end=0), target=5, sizes=(100,), layers=layers) == [9, 7, 4, 0]
        assert totals(Schedule(shape="linear", end=0.5), target=50, sizes=(100,), layers=(3, 4, 5)) == [67, 50, 33]
        assert totals(Schedule(shape="linear", end=1), target=50, sizes=(100,), layers=(3, 4, 5)) == [50, 50, 50]

    def test_sigmoid_is_symmetric_about_its_midpoint(self):
        counts = totals(Schedule(shape="sigmoid", steepness=1), target=500, sizes=(1000,), layers=tuple(range(5)))
        # 1 / (1 + exp(i - 2)) of 1000
        assert counts == [881, 731, 500, 269, 119]

    def test_a_steep_sigmoid_is_a_step(self):
        counts = totals(Schedule(shape="sigmoid", steepness=500), target=5, layers=tuple(range(4)))
        assert counts == [10, 10, 0, 0]

    def test_an_excess_over_the_prompt_goes_to_the_other_layers(self):
        # in proportion 4 : 2 : 1 the first would get 16 of 28; it has 10. The other 18 split 12 : 6, of which 10 fit
        assert totals(Schedule(shape="geometric", ratio=0.5), target=Fraction(28, 3), layers=(0, 1, 2)) == [10, 10, 8]

    def test_more_budget_than_the_shape_can_hold_fills_the_layers_it_gives_nothing(self):
        assert totals(Schedule(shape="linear", end=0), target=9, layers=(0, 1)) == [10, 8]

    @given(
        allocator=SHAPES,
        spans=st.lists(st.integers(1, 8), min_size=1, max_size=7).map(tuple),
        share=st.fractions(0, 1, max_denominator=97),
        size=st.integers(1, 300),
    )
    def test_the_budget_is_met_as_nearly_as_rounding_allows(self, allocator, spans, share, size):
        target = share * size
        counts = totals(allocator, target=target, sizes=(size,), layers=tuple(range(len(spans))), spans=spans)
        short = target * sum(spans) - sum(count * span for count, span in zip(counts, spans, strict=True))
        assert 0 <= short < max(spans)
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] >= 0
        assert counts[0] <= size

    @given(allocator=SHAPES, layers=st.integers(1, 9), total=st.integers(0, 90))
    def test_with_equal_spans_a_whole_total_is_met_exactly(self, allocator, layers, total):
        target = min(Fraction(total, layers), Fraction(10))
        counts = totals(allocator, target=target, layers=tuple(range(layers)))
        assert sum(counts) == target * layers

    def test_unequal_spans_are_filled_as_far_as_they_go(self):
        # exact values 4.89, 3.91 and 2.96 leave 9 spare after rounding down. By remainder, the last two would rise and
        # use 5 of them; raising the first two uses all
        line = Schedule(shape="linear", end=0.6)
        assert totals(line, target="4.3", sizes=(20,), layers=(0, 1, 2), spans=(5, 4, 1)) == [5, 4, 2]


class TestTable:
    def test_states_each_layers_share(self):
        table = Schedule(shape="table", table={8: 0.5, 16: 0.25, 24: 0.125})
        counts = totals(table, sizes=(576,), layers=(8, 16, 24), spans=(8, 8, 8))
        assert counts == [288, 144, 72]

    def test_rounds_halves_up_and_keeps_one(self):
        table = Schedule(shape="table", table={0: 0.25, 1: 0.01, 2: 0.0})
        assert totals(table, layers=(0, 1, 2)) == [3, 1, 0]

    def test_shares_are_of_the_prompt(self):
        table = Schedule(shape="table", table={5: 0.5})
        counts = table.allocate(request(sizes=(4, 6), original=(10, 10), layers=(5,)), signals()).counts
        assert counts.tolist() == [[4, 6]]

    def test_heads_get_budgets_of_their_own(self):
        table = Schedule(shape="table", table={4: (0.5, 0.2), 5: 0.3})
        first, second = over_layers(table, batch=3, sizes=(6, 4), layers=(4, 5), kv_heads=2)
        assert first.counts.dtype == torch.int64
        assert first.counts.tolist() == [[[3, 2], [1, 1]]] * 3
        assert second.counts.tolist() == [[2, 1]] * 3

    def test_may_rise_where_only_the_cache_is_pruned(self):
        assert totals(Schedule(shape="table", table={0: 0.2, 1: 0.9}), layers=(0, 1), kv_heads=2) == [2, 9]

    @pytest.mark.parametrize(
        ("table", "kv_heads", "message"),
        [
            ({2: 0.5, 4: 0.5}, None, "lacks [3]; the stage prunes at layers [2, 3, 4]"),
            ({2: 0.5}, None, "lacks [3, 4]"),
            ({2: 0.5, 3: 0.4, 4: 0.3, 5: 0.2, 6: 0.1}, None, "also has [5, 6]"),
            ({1: 0.5, 2: 0.5, 3: 0.4}, None, "lacks [4] and also has [1]"),
            ({2: 0.5, 3: (0.5, 0.4), 4: 0.1}, None, "use one share per layer, or a .kv site"),
            ({2: 0.5, 3: (0.5, 0.4, 0.1), 4: 0.1}, 2, "has 3 shares for layer 3, but the model has 2 KV heads"),
            ({2: 0.5, 3: 0.4, 4: 0.6}, None, "rises from 0.4 at layer 3 to 0.6 at layer 4"),
        ],
    )
    def test_must_fit_the_stage(self, table, kv_heads, message):
        with pytest.raises(ComponentError, match=re.escape(message)):
            totals(Schedule(shape="table", table=table), layers=(2, 3, 4), kv_heads=kv_heads)

    def test_excludes_a_budget(self):
        table, line = Schedule(shape="table", table={0: 0.5}), Schedule(shape="linear", end=0)
        assert "keep_ratio=0.5" in table.budget_problem(Budget.model_validate(0.5))
        assert table.budget_problem(None) is None
        assert "needs a budget" in line.budget_problem(None)
        assert line.budget_problem(Budget.model_validate(0.5)) is None

    def test_survives_a_round_trip_through_json(self):
        table = Schedule(shape="table", table={4: (0.5, 0.2), 5: 0.3})
        assert Schedule.model_validate_json(table.model_dump_json()) == table


class TestParameters:
    @pytest.mark.parametrize(
        "fields",
        [
            {"shape": "linear", "end": 0.5, "ratio": 0.5},
            {"shape": "sigmoid", "steepness": 1, "end": 0},
            {"shape": "geometric", "ratio": 0.5, "table": {0: 0.5}},
            {"shape": "table", "table": {0: 0.5}, "steepness": 1},
        ],
    )
    def test_of_another_shape_are_refused(self, fields):
        with pytest.raises(ValidationError, match=f"acts only with shape: .*, but shape is {fields['shape']}"):
            Schedule(**fields)

    @pytest.mark.parametrize("shape", ["table", "linear", "geometric", "sigmoid"])
    def test_of_the_shape_are_required(self, shape):
        with pytest.raises(ValidationError, match=f"shape: {shape} needs the parameter"):
            Schedule(shape=shape)

    @pytest.mark.parametrize(
        "fields",
        [
            {"shape": "linear", "end": 1.5},
            {"shape": "linear", "end": -0.5},
            {"shape": "geometric", "ratio": 0},
            {"shape": "geometric", "ratio": 1.5},
            {"shape": "sigmoid", "steepness": 0},
            {"shape": "sigmoid", "steepness": float("inf")},
            {"shape": "table", "table": {}},
            {"shape": "table", "table": {-1: 0.5}},
            {"shape": "table", "table": {0: 1.5}},
            {"shape": "table", "table": {0: (0.5, 1.5)}},
            {"shape": "step"},
        ],
    )
    def test_out_of_range_are_refused(self, fields):
        with pytest.raises(ValidationError):
            Schedule(**fields)

    @pytest.mark.parametrize(
        ("shape", "name", "values"),
        [("linear", "end", (0, 0.5, 1)), ("geometric", "ratio", (0.3, 0.6, 1)), ("sigmoid", "steepness", (0.1, 1, 3))],
    )
    def test_every_parameter_changes_the_counts(self, shape, name, values):
        found = [
            totals(Schedule(shape=shape, **{name: value}), target=40, sizes=(100,), layers=(0, 1, 2))
            for value in values
        ]
        assert len({*map(tuple, found)}) == len(values)
