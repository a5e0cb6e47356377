"""The statistics of a study, as frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from vtprune.study.statistics.accuracy import ACCURACY, TYPES, accuracy_rows, type_rows
from vtprune.study.statistics.bootstrap import Settings
from vtprune.study.statistics.comparisons import COMPARISONS, check_label, comparison_rows
from vtprune.study.statistics.costs import COSTS, cost_rows
from vtprune.study.statistics.frames import Row, frame
from vtprune.study.statistics.panel import panels

if TYPE_CHECKING:
    from vtprune.study.results import Results


@dataclass(frozen=True)
class Summary:
    """One row per variant, its seeds taken together, in the plan's order. Every frame begins with model, task, name
    (label and axes), label, role, of, axes, budget, status (complete, partial, missing, failed) and note. Numbers that
    are not known are NaN; accuracies and shares are 1 for all.

    accuracy: n_samples, n_clusters (groups of samples), accuracy, ci_low, ci_high, ci_method, n_expected, n_seeds,
        seed_std (over seeds), relative (to the unpruned model), retained_* (shares of its cost), seconds, evicts_only
        and one_token, see `costs`.
    types: kind (type or group), type, then as above; a group's accuracy is the mean of those of its types, members;
        absent: types of a group without samples.
    comparisons: against (label of the reference, or ``own`` and the kind of a control), own (whether that is a control
        of the recipe), reference (its name), n_samples in common, retained_mean and retained_flops of both sides (those
        of the reference as reference_*; a budget says little about what a method costs), difference with its
        interval and se, test, p, p_mcnemar, p_adjusted over n_comparisons, significant, resolvable (the smallest true
        difference that is found four times in five; inf where none can be, as with too few clusters). The interval is
        for this comparison alone; a claim rests on ``significant``.
    settings: confidence, resamples and seed. compare_to: the label of the named reference, or None.
    """

    accuracy: pd.DataFrame
    types: pd.DataFrame
    comparisons: pd.DataFrame
    settings: Settings
    compare_to: str | None = None


def summarise(
    results: Results,
    *,
    compare_to: str | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Accuracies, costs and comparisons of a study; equal results give equal numbers, whatever the order of rows.

    compare_to: label of a variant that every other is compared with, beside the unpruned model. None: the one that the
        study file names, where the results have it.
    Raises UnknownNameError for a label that the study has not, ScoreError for scores outside 0 to 1, ValueError
    for settings that make no sense.
    """
    settings = Settings(confidence, resamples, seed)
    found = panels(results)
    if compare_to is None:
        named = results.study.get("compare_to")
        compare_to = named if any(arm.label == named for panel in found for arm in panel.arms) else None
    check_label(compare_to, found)
    accuracy: list[Row] = []
    types: list[Row] = []
    comparisons: list[Row] = []
    for panel in found:
        costs = cost_rows(panel, results)
        accuracy += [row | cost for row, cost in zip(accuracy_rows(panel, settings), costs, strict=True)]
        types += type_rows(panel, results.groups.get(panel.task, {}), settings)
        comparisons += comparison_rows(panel, compare_to, settings, costs, results.study.get("merged", ()))
    return Summary(
        frame(accuracy, {**ACCURACY, **COSTS}),
        frame(types, TYPES),
        frame(comparisons, COMPARISONS),
        settings,
        compare_to,
    )
