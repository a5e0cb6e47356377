from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vtprune.core.budget import UNITS, Budget, apportion, largest_within, round_half_up


class TestBudget:
    @pytest.mark.parametrize(
        ("written", "unit", "value"),
        [
            (0.25, "keep_ratio", 0.25),
            (1, "keep_ratio", 1),
            (1.0, "keep_ratio", 1),
            (0, "keep_ratio", 0),
            (64, "keep_tokens", 64),
            ({"keep_tokens": 1}, "keep_tokens", 1),
            ({"mean_tokens_over_layers": 170.5}, "mean_tokens_over_layers", 170.5),
            ({"unit": "flops_ratio", "value": 0.5}, "flops_ratio", 0.5),
        ],
    )
    def test_forms(self, written, unit, value):
        budget = Budget.model_validate(written)
        assert (budget.unit, budget.value) == (unit, value)
        assert str(budget) == f"{unit}={value:g}"

    @pytest.mark.parametrize("unit", UNITS)
    def test_round_trip(self, unit):
        budget = Budget(unit=unit, value=1)
        assert budget.model_dump(mode="json") == {unit: 1}
        assert Budget.model_validate(budget.model_dump(mode="json")) == budget

    def test_tokens_are_written_as_an_integer(self):
        assert repr(Budget.model_validate(64).model_dump(mode="json")) == "{'keep_tokens': 64}"

    @pytest.mark.parametrize(
        ("written", "message"),
        [
            (1.5, "above 1 and not an integer"),
            (True, "got True"),
            ({"keep_ratio": True}, "valid number"),
            ({"keep_ratio": "0.5"}, "valid number"),
            ("half", "got the text 'half'"),
            ("0.5", "got the text '0.5'"),
            ({"keep_ration": 0.5}, "Did you mean 'keep_ratio'"),
            ({"keep_ratio": 0.5, "keep_tokens": 4}, "exactly one unit"),
            ({}, "exactly one unit"),
            ({"keep_ratio": 1.2}, "above 1"),
            ({"kv_bytes_ratio": 1.2}, "above 1"),
            ({"flops_ratio": -0.2}, "at least 0"),
            (-3, "at least 0"),
            ({"keep_tokens": 2.5}, "whole number"),
            ({"mean_tokens_over_layers": float("nan")}, "finite"),
            ({"mean_tokens_over_layers": float("inf")}, "finite"),
        ],
    )
    def test_what_is_refused(self, written, message):
        with pytest.raises(ValidationError, match=message):
            Budget.model_validate(written)

    def test_exact_is_the_decimal_that_was_written(self):
        assert Budget.model_validate(0.1).exact == Fraction(1, 10)
        assert Budget.model_validate(0.098).exact == Fraction(98, 1000)
        assert Budget.model_validate({"keep_ratio": 1e-7}).exact == Fraction(1, 10**7)


@given(st.fractions(-100, 100))
def test_round_half_up(value):
    assert value - Fraction(1, 2) < round_half_up(value) <= value + Fraction(1, 2)


class TestApportion:
    @pytest.mark.parametrize(
        ("total", "weights", "caps", "parts"),
        [
            (10, [1, 1, 1], [10, 10, 10], [4, 3, 3]),
            (7, [20, 10], [20, 10], [5, 2]),
            (3, [1, 1, 1, 1], [9, 9, 9, 9], [1, 1, 1, 0]),
            (10, [9, 1, 1], [2, 10, 10], [2, 4, 4]),
            (10, [8, 4, 1], [3, 3, 10], [3, 3, 4]),
            (5, [0, 1], [9, 3], [2, 3]),
            (4, [0, 0], [3, 3], [2, 2]),
            (0, [1, 2], [3, 4], [0, 0]),
            (0, [], [], []),
            (2, [5, 1], [0, 2], [0, 2]),
        ],
    )
    def test_examples(self, total, weights, caps, parts):
        assert apportion(total, weights, caps) == parts

    @pytest.mark.parametrize("total", [-1, 8])
    def test_an_impossible_total(self, total):
        with pytest.raises(ValueError, match=f"cannot split {total} over caps"):
            apportion(total, [1, 1], [3, 4])

    @given(data=st.data())
    def test_properties(self, data):
        length = data.draw(st.integers(1, 6))
        weights = data.draw(st.lists(st.fractions(0, 50, max_denominator=9), min_size=length, max_size=length))
        caps = data.draw(st.lists(st.integers(0, 30), min_size=length, max_size=length))
        total = data.draw(st.integers(0, sum(caps)))

        parts = apportion(total, weights, caps)

        assert sum(parts) == total
        assert all(0 <= part <= cap for part, cap in zip(parts, caps, strict=True))
        for i in range(length):
            for j in range(length):
                if weights[i] >= weights[j] and caps[i] >= caps[j] and (weights[i], -i) > (weights[j], -j):
                    assert parts[i] >= parts[j]
                if weights[i] == weights[j] and parts[i] < parts[j] - 1:
                    assert parts[i] == caps[i]

    @given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=8), total=st.integers(0, 400))
    def test_without_caps_each_part_is_within_one_of_its_quota(self, weights, total):
        parts = apportion(total, weights, [total] * len(weights))
        assert sum(parts) == total
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - Fraction(total * weight, sum(weights))) < 1

    @given(weights=st.lists(st.integers(1, 50), min_size=1), scale=st.integers(2, 9), total=st.integers(0, 99))
    def test_only_proportions_count(self, weights, scale, total):
        caps = [total] * len(weights)
        assert apportion(total, weights, caps) == apportion(total, [scale * weight for weight in weights], caps)


@given(low=st.integers(-5, 5), width=st.integers(-2, 40), edge=st.integers(-8, 45))
def test_largest_within(low, width, edge):
    expected = max((n for n in range(low, low + width + 1) if n <= edge), default=None)
    assert largest_within(lambda n: n <= edge, low, low + width) == expected
