"""Intervals and tests of the statistics: against slow references and simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from vtprune.study.power import groups_needed, least_p
from vtprune.study.statistics.bootstrap import Settings, bootstrap_means
from vtprune.study.statistics.intervals import estimate_means
from vtprune.study.statistics.paired import holm, mcnemar, resolvable, sign_flip, standard_error

pytestmark = pytest.mark.filterwarnings("error")
FAST = Settings(resamples=300)


def clustered(rng: np.random.Generator, clusters: int, size: int, p: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers [sample] whose chance varies from image to image, mean ``p``; and clusters [sample]."""
    chance = rng.beta(p, 1 - p, clusters)
    codes = np.repeat(np.arange(clusters), size)
    return (rng.random(len(codes)) < chance[codes]).astype(float), codes


# Intervals


def test_intervals_cover_the_truth_and_intervals_blind_to_clusters_do_not() -> None:
    rng, hits, blind = np.random.default_rng(0), 0, 0
    for _ in range(400):
        values, codes = clustered(rng, 40, 4)
        estimate = estimate_means(values[:, None], codes, FAST)[0]
        assert estimate.method == "cluster bootstrap"
        hits += estimate.low <= 0.7 <= estimate.high
        low, high = proportion_confint(values.sum(), len(values), method="wilson")
        blind += low <= 0.7 <= high
    assert 0.92 <= hits / 400 <= 0.98
    assert blind / 400 < 0.88


def test_intervals_of_few_samples_with_partial_credit_cover_the_truth() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        values = rng.beta(2, 3, 12)
        estimate = estimate_means(values[:, None], np.arange(12), FAST)[0]
        hits += estimate.low <= 0.4 <= estimate.high
    assert 0.92 <= hits / 400 <= 0.985


@given(right=st.integers(0, 30), wrong=st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_independent_right_and_wrong_answers_get_wilsons_interval(right: int, wrong: int) -> None:
    if right + wrong == 0:
        return
    values = np.array([1.0] * right + [0.0] * wrong)
    estimate = estimate_means(values[:, None], np.arange(len(values)), FAST)[0]
    z, n, p = stats.norm.ppf(0.975), len(values), right / len(values)
    middle, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n**2)
    assert estimate.method == "wilson"
    assert estimate.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-9)
    assert estimate.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-9)


def test_bootstrap_equals_a_loop_that_draws_whole_clusters() -> None:
    rng = np.random.default_rng(2)
    codes = np.sort(np.r_[np.arange(7), rng.integers(7, size=15)])
    values = rng.random((22, 2))
    drawn = np.random.default_rng(5).integers(7, size=(100, 7))
    reference = [
        np.concatenate([values[codes == cluster] for cluster in row]).mean(axis=0) for row in drawn
    ]  # as sizes differ, a ratio of sums
    np.testing.assert_allclose(bootstrap_means(values, codes, Settings(resamples=100, seed=5)), reference)


@pytest.mark.parametrize("values", [[1.0] * 9, [0.0] * 9, [0.5] * 9, [0.5]])
def test_without_spread_an_interval_still_has_a_width(values: list[float]) -> None:
    shared = np.arange(len(values)) // 3
    estimate = estimate_means(np.array(values)[:, None], shared, FAST)[0]
    n = shared.max() + 1
    assert estimate.method == "constant"
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert estimate.high - estimate.low > 0.3 / n
    if values[0] == 1:
        assert estimate.low == pytest.approx(proportion_confint(n, n, method="wilson")[0])


scores = st.lists(st.sampled_from([0.0, 1.0, 0.5, 1 / 3]), min_size=1, max_size=25)


@given(scores=scores, per_image=st.integers(1, 5), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_estimate_and_lies_in_bounds(scores: list[float], per_image: int, seed: int) -> None:
    codes = np.arange(len(scores)) // per_image
    estimate = estimate_means(np.array(scores)[:, None], codes, Settings(resamples=100, seed=seed))[0]
    assert estimate.mean == pytest.approx(np.mean(scores))
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert (estimate.n, estimate.clusters) == (len(scores), codes.max() + 1)


# Tests


@given(wins=st.integers(0, 40), losses=st.integers(0, 40), ties=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_mcnemar_equals_statsmodels_and_the_sign_flip_of_single_samples(wins: int, losses: int, ties: int) -> None:
    difference = np.array([1.0] * wins + [-1.0] * losses + [0.0] * ties)
    expected = reference_mcnemar([[ties, wins], [losses, 0]], exact=True).pvalue if wins + losses else 1.0
    assert mcnemar(difference) == pytest.approx(min(expected, 1.0))
    assert sign_flip(difference, 0) == pytest.approx(min(expected, 1.0))


@given(sums=st.lists(st.integers(-6, 6), max_size=10), seeds=st.sampled_from([1, 3, 4]))
@settings(max_examples=50, deadline=None)
def test_sign_flip_equals_all_flips(sums: list[int], seeds: int) -> None:
    values = np.array(sums, float) / seeds
    flips = [
        abs(np.dot(signs, values)) >= abs(values.sum()) - 1e-9 for signs in itertools.product([1, -1], repeat=len(sums))
    ]
    assert sign_flip(values, 0) == pytest.approx(np.mean(flips))


def test_sign_flip_of_any_numbers_is_close_to_all_flips() -> None:
    values = np.random.default_rng(3).standard_normal(11) + 0.4
    flips = [abs(np.dot(signs, values)) >= abs(values.sum()) for signs in itertools.product([1, -1], repeat=11)]
    assert sign_flip(values, 0) == pytest.approx(np.mean(flips), abs=0.015)


def test_sign_flip_keeps_its_level_with_shared_images_where_mcnemar_does_not() -> None:
    rng, flip, naive = np.random.default_rng(4), 0, 0
    for _ in range(400):
        favour = rng.choice([0.1, 0.9], 20).repeat(6)
        difference = np.where(rng.random(120) < 0.4, np.where(rng.random(120) < favour, 1.0, -1.0), 0.0)
        flip += sign_flip(difference.reshape(20, 6).sum(axis=1), 0) < 0.05
        naive += mcnemar(difference) < 0.05
    assert flip / 400 < 0.08
    assert naive / 400 > 0.1


def test_holm_by_hand_and_by_statsmodels() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    mixed = [*(np.random.default_rng(0).random(40) ** 4), 0.01, 0.01, 1.0]
    assert holm(mixed) == pytest.approx(multipletests(mixed, method="holm")[1])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_holm_never_lowers_a_p(p: list[float]) -> None:
    assert all(own <= adjusted <= 1 for own, adjusted in zip(p, holm(p), strict=True))


def test_standard_error_of_single_samples_is_the_textbook_one_and_grows_with_sharing() -> None:
    values = np.random.default_rng(5).standard_normal(60)
    assert standard_error(values, np.arange(60)) == pytest.approx(values.std(ddof=1) / math.sqrt(60))
    twice = standard_error(np.repeat(values, 2), np.repeat(np.arange(60), 2))
    assert twice == pytest.approx(standard_error(values, np.arange(60)))
    assert math.isnan(standard_error(np.ones(3), np.zeros(3, np.intp)))


def test_a_resolvable_difference_is_found_four_times_in_five() -> None:
    rng, alpha = np.random.default_rng(6), 0.01
    error = math.sqrt(0.3 / 300)
    gain = resolvable(error, 300, 1 / 300, alpha)
    found = 0
    for _ in range(400):
        u = rng.random(300)
        difference = np.where(u < (0.3 + gain) / 2, 1.0, np.where(u < 0.3, -1.0, 0.0))
        found += sign_flip(difference, 0) < alpha
    assert 0.72 <= found / 400 <= 0.88


def test_without_spread_fewer_samples_resolve_less() -> None:
    found = [resolvable(0.0, n, 1.0, 0.05) for n in (1000, 100, 10)]
    assert 0 < found[0] < found[1] < found[2] <= 1
    assert resolvable(float("nan"), 1, 1.0, 0.05) == math.inf


@pytest.mark.parametrize(("comparisons", "needed"), [(1, 6), (30, 11), (500, 15)])
def test_the_floor_of_the_test_is_that_of_the_flips_themselves(comparisons: int, needed: int) -> None:
    assert groups_needed(0.05, comparisons) == needed
    for unlike in (needed - 1, needed):
        assert sign_flip(np.ones(unlike), 0) == pytest.approx(least_p(unlike)) == 2 / 2**unlike
        best = holm([least_p(unlike), *[1.0] * (comparisons - 1)])[0]
        assert (best < 0.05) == (unlike == needed)


def test_with_too_few_groups_nothing_is_resolved_and_never_more_than_everything() -> None:
    assert resolvable(0.01, 10, 0.01, 0.05, 30) == math.inf
    assert resolvable(0.01, 11, 0.01, 0.05, 30) < 1
    assert resolvable(0.3, 32, 0.01, 0.05, 30) == math.inf


def test_answers_that_hardly_differ_resolve_no_less_than_as_many_groups_as_the_test_needs() -> None:
    # 64 groups of 8 questions, 30 comparisons: 11 groups have to differ, with at least one question each.
    found = resolvable(1e-4, 64, 1 / 8, 0.05, 30)
    assert found > 11 / 512
    share = found * 8
    assert stats.binom.sf(10, 64, share) == pytest.approx(0.8)
