"""The cluster bootstrap: whole groups of samples are drawn, because samples that share an image are correlated.

Every call with equal numbers of clusters and resamples and the same seed draws the same clusters, so that a result
depends neither on the order of rows nor on what else is in a study, and differences share their resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
CHUNK = 2_000_000
"""Entries of a block of resampling weights, 16 MB."""


@dataclass(frozen=True)
class Settings:
    """confidence: of intervals, 0 to 1; 1 - confidence is the level of tests. resamples: of the bootstrap. seed: of
    everything random."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is a share between 0 and 1, got {self.confidence}; write 0.95 for 95 %")
        if self.resamples < 100:
            raise ValueError(f"resamples={self.resamples} is too few for an interval; expected at least 100")

    @property
    def alpha(self) -> float:
        """Level of the tests."""
        return 1 - self.confidence


def cluster_sums(values: Array, clusters: Codes) -> Array:
    """values: [sample, column] or [sample]; clusters: [sample], 0 to n - 1. Returns [cluster, column] or [cluster]."""
    sums = np.zeros((clusters.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(sums, clusters, values)
    return sums


def bootstrap_ratios(sums: Array, counts: Array, settings: Settings) -> Array:
    """Resampled sums over resampled counts.

    sums: [cluster, column]; counts: [cluster, column] or [cluster, 1]. Returns [resample, column], NaN where a
    resample's count is 0.
    """
    blocks = []
    for weights in _weights(len(sums), settings):
        count = weights @ counts
        blocks.append(
            np.divide(weights @ sums, count, out=np.full((len(weights), sums.shape[1]), np.nan), where=count > 0)
        )
    return np.concatenate(blocks)


def bootstrap_means(values: Array, clusters: Codes, settings: Settings) -> Array:
    """Means over samples of resampled clusters; values: [sample, column] without NaN. Returns [resample, column]."""
    return bootstrap_ratios(cluster_sums(values, clusters), cluster_sums(np.ones((len(values), 1)), clusters), settings)


def _weights(n: int, settings: Settings) -> Iterator[Array]:
    """How often each of ``n`` clusters is drawn: blocks of [resample, cluster]."""
    rng = np.random.default_rng(settings.seed)
    rows = max(1, CHUNK // n)
    for start in range(0, settings.resamples, rows):
        height = min(rows, settings.resamples - start)
        drawn = rng.integers(n, size=(height, n)) + n * np.arange(height)[:, None]
        yield np.bincount(drawn.ravel(), minlength=height * n).reshape(height, n).astype(np.float64)
