"""Confidence intervals of means of scores.

Right and wrong answers that do not share an image get Wilson's interval (Wilson 1927). All else gets the cluster
bootstrap with the expanded percentile interval (Hesterberg 2015, "What teachers should know about the bootstrap",
The American Statistician 69(4)): percentiles are moved outwards as Student's t asks for, or intervals of few clusters
are too narrow. Where every cluster has the same mean the bootstrap knows no spread, and the interval says what as many
equal clusters can exclude (`constant_interval`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from vtprune.study.statistics.bootstrap import Array, Codes, Settings, bootstrap_means

TINY = 1e-12


@dataclass(frozen=True)
class Estimate:
    """mean with its interval; n: samples; clusters: groups of them; method: ``wilson``, ``cluster bootstrap``,
    ``constant`` or ``none``. All three numbers are NaN where n is 0."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    method: str


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0, 0, "none")


def estimate_means(
    values: Array, clusters: Codes, settings: Settings, bounds: tuple[float, float] = (0.0, 1.0)
) -> list[Estimate]:
    """Mean and interval of each column over the samples that it has.

    values: [sample, column], NaN where a column has no such sample; clusters: [sample]; bounds: the least and greatest
    value there can be, (0, 1) for scores, (-1, 1) for differences of scores. Wilson's interval is for scores only.
    """
    estimates = [NOTHING] * values.shape[1]
    for columns, rows in same_samples(values):
        part, codes = values[np.ix_(rows, columns)], compact(clusters[rows])
        n_clusters = codes.max() + 1
        draws = bootstrap_means(part, codes, settings)
        means = part.mean(axis=0)
        for i, column in enumerate(columns):
            wilson = bounds == (0, 1) and n_clusters == len(part) and bool(np.isin(part[:, i], (0, 1)).all())
            if wilson:
                low, high = proportion_confint(part[:, i].sum(), len(part), settings.alpha, method="wilson")
                method = "wilson"
            else:
                low, high, method = spread_interval(draws[:, i], means[i], n_clusters, settings, bounds)
            low, high = min(float(low), means[i]), max(float(high), means[i])
            estimates[column] = Estimate(float(means[i]), float(low), float(high), len(part), int(n_clusters), method)
    return estimates


def same_samples(values: Array) -> list[tuple[Codes, Codes]]:
    """Columns of [sample, column] that have the same samples, with those samples; columns without any are left out."""
    present = ~np.isnan(values)
    patterns: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(present.any(axis=0)):
        patterns.setdefault(present[:, column].tobytes(), []).append(int(column))
    return [(np.array(columns), np.flatnonzero(present[:, columns[0]])) for columns in patterns.values()]


def compact(codes: Codes) -> Codes:
    """Cluster codes [sample] renumbered from 0 without gaps, in the order of their size as numbers."""
    return np.unique(codes, return_inverse=True)[1]


def spread_interval(
    draws: Array, estimate: float, n_clusters: int, settings: Settings, bounds: tuple[float, float]
) -> tuple[float, float, str]:
    """Interval of one estimate from its bootstrap draws [resample], and the method: bootstrap or, without spread,
    constant. It always holds the estimate and stays within the bounds."""
    draws = draws[~np.isnan(draws)]
    if np.ptp(draws) < TINY:
        return *constant_interval(estimate, n_clusters, settings.confidence, bounds), "constant"
    z = np.sqrt(n_clusters / (n_clusters - 1)) * stats.t.ppf(settings.alpha / 2, n_clusters - 1)
    low, high = np.quantile(draws, [stats.norm.cdf(z), stats.norm.sf(z)])
    return min(float(low), estimate), max(float(high), estimate), "cluster bootstrap"


def odd_share(n_clusters: int, confidence: float) -> float:
    """The share of clusters that may be unlike the rest when none of ``n_clusters`` was: Wilson's upper bound of
    0 of n, z^2 / (n + z^2)."""
    z2 = stats.norm.ppf((1 + confidence) / 2) ** 2
    return float(z2 / (n_clusters + z2))


def constant_interval(
    value: float, n_clusters: int, confidence: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Interval of a mean when all of ``n_clusters`` agree on ``value``: a share of clusters as large as `odd_share` may
    lie at either bound. Equals Wilson's interval for all right or all wrong."""
    odd, (least, most) = odd_share(n_clusters, confidence), bounds
    return value - odd * (value - least), value + odd * (most - value)
