"""Accuracy of each variant with its interval: overall, per type of question, and per group of types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vtprune.study.statistics.bootstrap import Array, Settings, bootstrap_ratios, cluster_sums
from vtprune.study.statistics.frames import VARIANT, Row
from vtprune.study.statistics.intervals import NOTHING, Estimate, compact, estimate_means, same_samples, spread_interval
from vtprune.study.statistics.panel import Arm, Panel

ESTIMATE: Mapping[str, type] = {
    "n_samples": int,
    "n_clusters": int,
    "accuracy": float,
    "ci_low": float,
    "ci_high": float,
    "ci_method": object,
}
ACCURACY: Mapping[str, type] = {
    **VARIANT,
    **ESTIMATE,
    "n_expected": object,
    "n_seeds": int,
    "seed_std": float,
    "relative": float,
}
TYPES: Mapping[str, type] = {
    **VARIANT,
    "kind": object,
    "type": object,
    **ESTIMATE,
    "members": object,
    "absent": object,
}


def accuracy_rows(panel: Panel, settings: Settings) -> list[Row]:
    """One row per variant: `ACCURACY`."""
    rows = []
    for i, estimate in enumerate(estimate_means(panel.scores, panel.clusters, settings)):
        arm, seeds = panel.arms[i], panel.seed_scores[i]
        rows.append(
            variant_row(panel, arm)
            | estimate_row(estimate)
            | {
                "n_expected": arm.expected,
                "n_seeds": int((~np.isnan(seeds)).any(axis=0).sum()),
                "seed_std": panel.seed_std(i),
                "relative": _relative(panel, i),
            }
        )
    return rows


def type_rows(panel: Panel, groups: Mapping[str, Sequence[str]], settings: Settings) -> list[Row]:
    """One row per variant and type of question (kind ``type``), and per variant and group (kind ``group``): `TYPES`.

    A group's accuracy is the mean of its types' accuracies, each type weighing the same however few its samples;
    ``members`` lists these types, ``absent`` those of the group that the variant has no sample of.
    """
    types = panel.samples["type"].to_numpy()
    rows = []
    for kind in sorted(set(types)):
        mask = types == kind
        for arm, estimate in zip(
            panel.arms, estimate_means(panel.scores[mask], panel.clusters[mask], settings), strict=True
        ):
            rows.append(
                variant_row(panel, arm)
                | {"kind": "type", "type": kind, "members": [kind], "absent": []}
                | estimate_row(estimate)
            )
    for group, members in groups.items():
        estimates, absent = _macro(panel, list(members), settings)
        for arm, estimate, without in zip(panel.arms, estimates, absent, strict=True):
            found = [member for member in members if member not in without]
            row = {"kind": "group", "type": group, "members": found, "absent": without}
            rows.append(variant_row(panel, arm) | row | estimate_row(estimate))
    return rows


def variant_row(panel: Panel, arm: Arm) -> Row:
    """The columns `VARIANT`."""
    return {
        "model": panel.model,
        "task": panel.task,
        "name": arm.name,
        "label": arm.label,
        "role": arm.role,
        "of": arm.of,
        "axes": dict(arm.axes),
        "budget": arm.budget,
        "status": arm.status,
        "note": arm.note,
    }


def estimate_row(estimate: Estimate) -> Row:
    """The columns `ESTIMATE`."""
    return {
        "n_samples": estimate.n,
        "n_clusters": estimate.clusters,
        "accuracy": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "ci_method": estimate.method,
    }


def unpruned(panel: Panel, arm: Arm) -> int | None:
    """Place of the unpruned model that the arm is measured by, or None."""
    full = panel.references(arm, [i for i, other in enumerate(panel.arms) if other.role == "full"])
    return full[0] if full else None


def _relative(panel: Panel, arm: int) -> float:
    """Accuracy over that of the unpruned model on the samples both have; NaN if there are none or the latter is 0."""
    full = unpruned(panel, panel.arms[arm])
    if full is None:
        return float("nan")
    pair = panel.scores[:, [arm, full]]
    mean, base = pair[~np.isnan(pair).any(axis=1)].sum(axis=0)
    return float(mean / base) if base else float("nan")


def _macro(panel: Panel, members: list[str], settings: Settings) -> tuple[list[Estimate], list[list[str]]]:
    """For each arm: the mean over types with its interval, and the types without a sample. A resample that
    misses a type takes the mean over the others."""
    types = panel.samples["type"].to_numpy()
    inside = np.isin(types, members)
    scores, clusters, types = panel.scores[inside], panel.clusters[inside], types[inside]
    estimates, absent = [NOTHING] * len(panel.arms), [list(members) for _ in panel.arms]
    for columns, rows in same_samples(scores):
        codes = compact(clusters[rows])
        found = [member for member in members if (types[rows] == member).any()]
        is_type = np.stack([types[rows] == member for member in found], axis=1).astype(float)
        counts = cluster_sums(is_type, codes)
        values = scores[np.ix_(rows, columns)]
        sums = cluster_sums(values[:, :, None] * is_type[:, None, :], codes)
        means = sums.sum(axis=0) / counts.sum(axis=0)
        draws = _mean_of_types(sums, counts, settings)
        for i, column in enumerate(columns):
            mean = float(means[i].mean())
            low, high, method = spread_interval(draws[:, i], mean, len(counts), settings, (0.0, 1.0))
            estimates[column] = Estimate(mean, low, high, len(rows), len(counts), method)
            absent[column] = [member for member in members if member not in found]
    return estimates, absent


def _mean_of_types(sums: Array, counts: Array, settings: Settings) -> Array:
    """sums: [cluster, arm, type]; counts: [cluster, type]. Returns resampled means over types, [resample, arm]."""
    clusters, arms, types = sums.shape
    tiled = np.tile(counts, (1, arms))
    ratios = bootstrap_ratios(sums.reshape(clusters, arms * types), tiled, settings)
    return np.nanmean(ratios.reshape(-1, arms, types), axis=2)
