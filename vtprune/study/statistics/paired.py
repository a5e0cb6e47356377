"""Paired tests of two variants on the same samples.

The primary test is the sign-flip permutation test on the sums of each cluster's differences: if the variants do not
differ, a cluster's sum is as likely with either sign (Fisher 1935; Winkler et al. 2014 for whole blocks). It is valid
for shared images, for averages over seeds and for scores between 0 and 1. Where each sample is its own cluster and
scores are 0 or 1, it is McNemar's exact test, which is then what it is called. With shared images McNemar's test counts
correlated answers as independent evidence and is reported beside, not believed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vtprune.study.power import groups_needed
from vtprune.study.statistics.bootstrap import Array, Codes, cluster_sums
from vtprune.study.statistics.intervals import odd_share

POWER = 0.8
FLIPS = 9_999
MAX_UNIT = 60
MAX_WORK = 200_000_000


def mcnemar(difference: Array) -> float:
    """Exact two-sided p of McNemar's test; difference: [sample], -1, 0 or 1. 1 if no sample differs."""
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def sign_flip(sums: Array, seed: int) -> float:
    """Two-sided p of the sign-flip permutation test; sums: [cluster], of differences.

    Exact over all 2^clusters flips where the sums are whole multiples of 1/1 ... 1/60 (scores of 0 and 1, averaged over
    some seeds); else ``(1 + as extreme) / (1 + 9999)`` over 9999 random flips (Phipson and Smyth 2010).
    """
    sums = sums[np.abs(sums) > 1e-9]
    if not len(sums):
        return 1.0
    whole = _as_integers(sums)
    if whole is not None and len(whole) * np.abs(whole).sum() <= MAX_WORK:
        return _exact(whole)
    rng, observed, extreme = np.random.default_rng(seed), abs(sums.sum()), 0
    for flips in np.array_split(np.arange(FLIPS), max(1, FLIPS * len(sums) // 2_000_000)):
        signs = 2 * rng.integers(2, size=(len(flips), len(sums)), dtype=np.int8) - 1
        extreme += int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    return (1 + extreme) / (1 + FLIPS)


def holm(p: Sequence[float]) -> list[float]:
    """Each p adjusted for all of them (Holm 1979): of m, the smallest times m, the next times m - 1, and none below an
    earlier one."""
    # Not statsmodels' multipletests: it collects garbage on every call, which takes longer than all else here.
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        floor = max(floor, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = floor
    return adjusted


def standard_error(difference: Array, clusters: Codes) -> float:
    """Of the mean difference, from clusters: the linearised ratio of sums to sizes (Cochran 1977, chapter 6); NaN for
    one cluster. difference: [sample]; clusters: [sample], 0 to n - 1."""
    sizes = cluster_sums(np.ones_like(difference), clusters)
    n = len(sizes)
    if n < 2:
        return float("nan")
    rest = cluster_sums(difference, clusters) - sizes * difference.mean()
    return float(np.sqrt(n / (n - 1) * (rest**2).sum()) / sizes.sum())


def resolvable(error: float, n_clusters: int, step: float, alpha: float, comparisons: int = 1) -> float:
    """The smallest true difference that a two-sided test at ``alpha`` finds with 80 % power, inf where there is none.

    It is the larger of two. From the spread: ``(z[1 - alpha / 2] + z[0.8]) * standard error`` (Miller 2024, "Adding
    error bars to evals"). From the test's own floor: a difference of one sign in fewer than k clusters, see
    `groups_needed`, is never significant, so the share of unlike clusters has to be one of which n clusters show k four
    times in five; each counts for ``step``, the least that one unlike cluster adds to the mean difference.

    Of a family of comparisons alpha is divided by their number, the strictest step of Holm's method: a difference as
    large is found whatever the other comparisons give. Without any spread (every cluster the same, or one cluster) the
    error is that of the largest share of unlike clusters that n clusters leave open. There is no such difference where
    even n unlike clusters are fewer than k, or where it would be above 1, more than scores can differ by.
    """
    needed, strict = groups_needed(alpha, comparisons), alpha / comparisons
    if n_clusters < needed:
        return float("inf")
    if not error > 0:
        error = float(np.sqrt(odd_share(n_clusters, 1 - strict) / n_clusters))
    spread = (stats.norm.isf(strict / 2) + stats.norm.ppf(POWER)) * error
    share = stats.beta.ppf(POWER, needed, n_clusters - needed + 1)
    found = float(max(spread, share * step))
    return found if found <= 1 else float("inf")


def least_step(difference: Array, clusters: Codes) -> float:
    """What the least of the unlike clusters adds to a mean difference, times the number of clusters: its sum over the
    mean size of a cluster, and never more than one sample's worth.

    difference: [sample]; clusters: [sample], 0 to n - 1. Where no cluster differs, one sample's worth.
    """
    sums = np.abs(cluster_sums(difference, clusters))
    least = min(1.0, float(sums[sums > 1e-9].min(initial=1.0)))
    return least * len(sums) / len(difference)


def _as_integers(sums: Array) -> NDArray[np.int64] | None:
    for unit in range(1, MAX_UNIT + 1):
        scaled = sums * unit
        if np.abs(scaled - np.rint(scaled)).max() < 1e-6:
            return np.rint(scaled).astype(np.int64)
    return None


def _exact(sums: NDArray[np.int64]) -> float:
    """The distribution of the flipped total as a product of binomials, one for each size of sum."""
    distribution = np.ones(1)
    for size, count in zip(*np.unique(np.abs(sums), return_counts=True), strict=True):
        wider = np.zeros(len(distribution) + 2 * size * count)
        for positive, probability in enumerate(stats.binom.pmf(np.arange(count + 1), count, 0.5)):
            start = 2 * size * positive
            wider[start : start + len(distribution)] += probability * distribution
        distribution = wider
    totals = np.arange(len(distribution)) - len(distribution) // 2
    return float(min(1.0, distribution[np.abs(totals) >= abs(sums.sum())].sum()))
