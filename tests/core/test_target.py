from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprune.core.budget import Budget
from vtprune.core.errors import BudgetError
from vtprune.core.target import Programme, resolve


class Quadratic:
    """A made-up cost: 10 per token and 1 per pair of tokens in each layer, 7 for each row of logits."""

    def prefill_with(self, vision: Sequence[int], text: int, logits: int = 1) -> int:
        return sum(10 * (v + text) + (v + text) ** 2 for v in vision) + 7 * logits


def programme(
    original: int = 576,
    layers: tuple[int, ...] = (2,),
    depth: int = 32,
    is_kv: bool = False,
    text: int = 64,
    entering: tuple[int, ...] | None = None,
) -> Programme:
    return Programme(original, text, entering or (original,) * depth, layers, is_kv, Quadratic())


def tokens(budget: object, **fields: object) -> Fraction:
    return resolve(Budget.model_validate(budget), programme(**fields))


class TestGoverned:
    def test_dropping_governs_every_layer_from_the_first_on(self):
        stage = programme(layers=(8, 16, 24))
        assert stage.spans == (8, 8, 8)
        assert stage.governed == set(range(8, 32))

    def test_unequal_spans(self):
        assert programme(layers=(2, 3, 20)).spans == (1, 17, 12)

    def test_eviction_governs_its_own_layers(self):
        stage = programme(layers=(2, 3, 20), is_kv=True)
        assert stage.spans == (1, 1, 1)
        assert stage.governed == {2, 3, 20}


class TestCounts:
    @pytest.mark.parametrize(
        ("ratio", "size", "kept"),
        [
            # int(n * (1 - compression)) gives 0, 28, 699 and 5 for these, since 1 - 0.9 is below 0.1 in binary
            (0.1, 10, 1),
            (0.29, 100, 29),
            (0.7, 1000, 700),
            (0.6, 10, 6),
            (0.5, 5, 3),
            (0.25, 2, 1),
            (0.001, 576, 1),
            (0.0, 576, 0),
            (1.0, 576, 576),
            (0.098, 576, 56),
        ],
    )
    def test_keep_ratio(self, ratio, size, kept):
        assert tokens(ratio, original=size) == kept

    @given(size=st.integers(1, 3000), percent=st.integers(0, 100))
    def test_keep_ratio_is_the_nearest_integer_and_at_least_one(self, size, percent):
        kept = tokens({"keep_ratio": percent / 100}, original=size)
        assert kept == max((2 * percent * size + 100) // 200, 1 if percent else 0)

    def test_keep_tokens(self):
        assert tokens(64) == 64
        assert tokens({"keep_tokens": 0}) == 0
        with pytest.raises(BudgetError, match=r"keep_tokens=577 asks for more .* than the sample has \(576\)"):
            tokens(577)

    def test_a_sample_without_vision_tokens_keeps_none(self):
        assert tokens(64, original=0) == 0

    def test_layers_do_not_matter_to_a_plain_count(self):
        assert tokens(0.5, layers=(8, 16)) == tokens(0.5, layers=(3,), is_kv=True) == 288


class TestMeanOverLayers:
    def test_fastv(self):
        # two layers hold all 576, thirty hold 144: the mean is 171
        assert Fraction(576 * 2 + 144 * 30, 32) == 171
        assert tokens({"mean_tokens_over_layers": 171}) == 144

    def test_a_mean_that_is_no_whole_number_stays_exact(self):
        assert tokens({"mean_tokens_over_layers": 192}) == Fraction(192 * 32 - 576 * 2, 30)

    def test_earlier_stages_count_with_what_they_leave(self):
        # two layers hold 576, fourteen 100 and sixteen 50
        entering = (576,) * 2 + (100,) * 30
        mean = {"mean_tokens_over_layers": 104.75}
        assert tokens(mean, layers=(16,), entering=entering) == 50
        assert tokens({"mean_tokens_over_layers": 129.75}, layers=(16,), entering=entering) == 100
        for unreachable in (79.5, 130):
            with pytest.raises(BudgetError, match=r"hold 2552 vision tokens in sum, .* between 79\.75 and 129\.8"):
                tokens({"mean_tokens_over_layers": unreachable}, layers=(16,), entering=entering)

    def test_before_the_language_model_it_is_a_plain_count(self):
        assert tokens({"mean_tokens_over_layers": 64}, layers=(0,)) == 64

    @pytest.mark.parametrize("mean", [35.9, 576.1])
    def test_out_of_reach(self, mean):
        message = "the 2 of 32 layers that this stage does not govern hold 1152 .* can lie between 36 and 576"
        with pytest.raises(BudgetError, match=message):
            tokens({"mean_tokens_over_layers": mean})

    @pytest.mark.parametrize(("mean", "kept"), [(36, 0), (576, 576)])
    def test_the_ends_of_the_reach(self, mean, kept):
        assert tokens({"mean_tokens_over_layers": mean}) == kept


class TestKvBytes:
    def test_is_a_share_of_text_and_vision(self):
        kept = tokens({"kv_bytes_ratio": 0.5}, layers=tuple(range(32)), is_kv=True)
        assert (kept + 64) / (576 + 64) == Fraction(1, 2)

    def test_counts_the_layers_that_are_not_pruned(self):
        kept = tokens({"kv_bytes_ratio": 0.75}, layers=tuple(range(16, 32)), is_kv=True)
        assert (16 * 640 + 16 * (kept + 64)) / Fraction(32 * 640) == Fraction(3, 4)

    def test_dropping_saves_cache_too(self):
        kept = tokens({"kv_bytes_ratio": 0.5})
        assert (2 * 640 + 30 * (kept + 64)) / Fraction(32 * 640) == Fraction(1, 2)

    def test_out_of_reach(self):
        # text alone takes 10 % of every layer, and the two unpruned layers hold their 90 % as well
        with pytest.raises(BudgetError, match=r"kv_bytes_ratio can lie between 0\.1562 and 1"):
            tokens({"kv_bytes_ratio": 0.1})


class TestFlops:
    @given(ratio=st.floats(0.2, 1.0))
    def test_is_the_most_that_costs_no_more(self, ratio):
        cost = Quadratic()
        full = cost.prefill_with([576] * 32, 64)
        kept = tokens({"flops_ratio": ratio})
        assert kept.denominator == 1

        def share(count: int) -> Fraction:
            return Fraction(cost.prefill_with([576] * 2 + [count] * 30, 64), full)

        assert share(int(kept)) <= Fraction(repr(ratio))
        assert kept == 576 or share(int(kept) + 1) > Fraction(repr(ratio))

    def test_a_stage_cannot_spend_on_tokens_that_an_earlier_one_dropped(self):
        entering = (100,) * 32
        share = Fraction(Quadratic().prefill_with(entering, 64), Quadratic().prefill_with([576] * 32, 64))
        assert tokens({"flops_ratio": float(share) + 0.001}, layers=(16,), entering=entering) == 576

    def test_the_whole_cost_keeps_everything(self):
        assert tokens({"flops_ratio": 1}) == 576

    def test_out_of_reach(self):
        with pytest.raises(BudgetError, match=r"with no vision token after layer 2 the prefill still costs 0\.07"):
            tokens({"flops_ratio": 0.05})

    def test_a_cache_site_saves_no_prefill(self):
        with pytest.raises(BudgetError, match="use kv_bytes_ratio or keep_ratio"):
            tokens({"flops_ratio": 0.5}, is_kv=True)
