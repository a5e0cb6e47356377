"""Which part of a method brings the gain: main effects and two-way interactions of a factorial study.

The observations are the accuracies of a study's cells on the samples that all of them have, averaged over seeds.
Effects come from least squares with effects that sum to zero over a factor's levels; in a balanced design they are the
marginal means less the grand mean. Shares of variance are type II sums of squares (Langsrud 2003) over the total. In an
unbalanced design (some combinations do not fit together) shares need not add up to one. What the design cannot tell
apart is NaN and said in the notes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vtprune.core.errors import UnknownNameError, did_you_mean
from vtprune.study.statistics.bootstrap import Array, Codes, Settings, bootstrap_means
from vtprune.study.statistics.frames import Row, frame
from vtprune.study.statistics.intervals import compact, spread_interval
from vtprune.study.statistics.paired import holm
from vtprune.study.statistics.panel import Arm, Panel, panels

if TYPE_CHECKING:
    import pandas as pd

    from vtprune.study.results import Results

WHERE: Mapping[str, type] = {"model": object, "task": object}
INTERVAL: Mapping[str, type] = {"effect": float, "ci_low": float, "ci_high": float, "n_cells": int}
EFFECTS: Mapping[str, type] = {**WHERE, "factor": object, "level": object, **INTERVAL}
PAIR: Mapping[str, type] = dict.fromkeys(("factor_a", "level_a", "factor_b", "level_b"), object)
INTERACTIONS: Mapping[str, type] = {**WHERE, **PAIR, **INTERVAL}
VARIANCE: Mapping[str, type] = {
    **WHERE,
    "term": object,
    "order": int,
    "df": int,
    **dict.fromkeys(("share", "ci_low", "ci_high", "p", "p_adjusted"), float),
}
TINY = 1e-9
LABEL = "label"


@dataclass(frozen=True)
class Attribution:
    """Frames per model and task; accuracies and effects on the scale of scores, 0 to 1.

    effects: factor, level, effect (accuracy gained over the mean level, other factors equal), its interval, n_cells.
    interactions: factor_a, level_a, factor_b, level_b, effect (how far the cells of the pair lie above what the main
        effects add up to, on average), its interval, n_cells.
    variance: term (factor, ``a x b`` or ``rest``), order (1, 2 or 0), df, share of the variance between cells with its
        interval, p and Holm's p_adjusted that the term is more than the noise of the samples. Shares are never
        negative and noise alone gives some; believe p.
    notes: what was left out, and why; sentences.
    """

    effects: pd.DataFrame
    interactions: pd.DataFrame
    variance: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """The factorial: levels of each factor in the plan's order, and ``codes`` [cell, factor], places in them."""

    levels: Mapping[str, tuple[str, ...]]
    codes: Codes

    def columns(self, *factors: int) -> Array:
        """Sum-to-zero coding of a factor, or of the interaction of several: [cell, product of (levels - 1)]."""
        columns = np.ones((len(self.codes), 1))
        for factor in factors:
            n = len(list(self.levels.values())[factor])
            coding = np.vstack([np.eye(n - 1), -np.ones(n - 1)])[self.codes[:, factor]]
            columns = (columns[:, :, None] * coding[:, None, :]).reshape(len(coding), -1)
        return columns

    @property
    def terms(self) -> list[tuple[int, ...]]:
        """Factors, then pairs of factors."""
        n = range(len(self.levels))
        return [*((i,) for i in n), *itertools.combinations(n, 2)]

    def matrix(self, terms: Sequence[tuple[int, ...]]) -> Array:
        """An intercept and the columns of the terms: [cell, parameter]."""
        return np.hstack([self.columns(), *(self.columns(*term) for term in terms)])


def attribute(
    results: Results,
    *,
    factors: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Attribution:
    """Effects of the axes of the recipes in a study, with intervals from a bootstrap of groups of samples.

    factors: names of axes, or ``label`` for the recipe itself. None: those axes with two or more values of the largest
    set of recipes that have the same axes. Without two such axes the frames are empty and the notes say so.
    Raises UnknownNameError for an axis that no recipe has.
    """
    settings = Settings(confidence, resamples, seed)
    effects: list[Row] = []
    interactions: list[Row] = []
    variance: list[Row] = []
    notes: list[str] = []
    for panel in panels(results):
        where = {"model": panel.model, "task": panel.task}
        chosen, said = _choose(panel, factors)
        notes += [f"{panel.model} / {panel.task}: {note}" for note in said]
        if not chosen:
            continue
        design, arms = _design(panel, *chosen)
        scores = panel.scores[:, arms]
        common: NDArray[np.bool_] = np.asarray(~np.isnan(scores).any(axis=1))
        if common.sum() < len(common):
            notes.append(f"{panel.model} / {panel.task}: {common.sum()} of {len(common)} samples are in all cells")
        if not common.any():
            continue
        clusters = compact(panel.clusters[common])
        mean, draws = scores[common].mean(axis=0), bootstrap_means(scores[common], clusters, settings)
        fit = _Fit(design, mean, draws, int(clusters.max()) + 1, settings)
        found = fit.effects()
        effects += [where | row for row in found]
        interactions += [where | row for row in fit.interactions()]
        variance += [where | row for row in fit.variance()]
        unknown = sorted({row["factor"] for row in found if np.isnan(row["effect"])})
        if unknown:
            notes.append(
                f"{panel.model} / {panel.task}: the cells cannot tell the effects of {', '.join(unknown)} apart"
            )
    return Attribution(
        frame(effects, EFFECTS), frame(interactions, INTERACTIONS), frame(variance, VARIANCE), tuple(notes)
    )


@dataclass(frozen=True)
class _Fit:
    """mean: [cell]; draws: [resample, cell], both accuracies."""

    design: Design
    mean: Array
    draws: Array
    n_clusters: int
    settings: Settings

    def effects(self) -> list[Row]:
        mains = [(i,) for i in range(len(self.design.levels))]
        matrix = self.design.matrix(mains)
        inverse = np.linalg.pinv(matrix)
        null, column, rows = np.eye(matrix.shape[1]) - inverse @ matrix, 1, []
        for i, (factor, levels) in enumerate(self.design.levels.items()):
            n = len(levels)
            contrasts = np.zeros((n, matrix.shape[1]))
            contrasts[:, column : column + n - 1] = np.vstack([np.eye(n - 1), -np.ones(n - 1)])
            column += n - 1
            for code, (level, contrast) in enumerate(zip(levels, contrasts, strict=True)):
                known = bool(np.abs(contrast @ null).max() < TINY)
                count = int((self.design.codes[:, i] == code).sum())
                rows.append({"factor": factor, "level": level} | self._interval(contrast @ inverse, count, known))
        return rows

    def interactions(self) -> list[Row]:
        mains = self.design.matrix([(i,) for i in range(len(self.design.levels))])
        residual = np.eye(len(mains)) - mains @ np.linalg.pinv(mains)
        rows = []
        for (a, (factor_a, levels_a)), (b, (factor_b, levels_b)) in itertools.combinations(
            enumerate(self.design.levels.items()), 2
        ):
            for (i, level_a), (j, level_b) in itertools.product(enumerate(levels_a), enumerate(levels_b)):
                cells = (self.design.codes[:, a] == i) & (self.design.codes[:, b] == j)
                if cells.any():
                    names = {"factor_a": factor_a, "level_a": level_a, "factor_b": factor_b, "level_b": level_b}
                    rows.append(names | self._interval(residual[cells].mean(axis=0), int(cells.sum())))
        return rows

    def variance(self) -> list[Row]:
        """p: how often noise alone, the draws less the mean, gives a term as large a sum of squares."""
        terms, names = self.design.terms, list(self.design.levels)
        both = np.vstack([self.mean, self.draws, self.draws - self.mean])
        total = self._explained(both, terms=None)
        largest = self._explained(both, terms)
        rows: list[Row] = []
        for term in [*terms, ()]:
            if term:
                others = [other for other in terms if not set(term) <= set(other)]
                squares = self._explained(both, [*others, term]) - self._explained(both, others)
                df = self._rank([*others, term]) - self._rank(others)
            else:
                squares, df = total - largest, len(self.mean) - self._rank(terms)
            squares = np.maximum(squares, 0)
            share = np.divide(squares, total, out=np.zeros_like(squares), where=total > TINY**2)
            n = len(self.draws)
            low, high, _ = spread_interval(share[1 : n + 1], share[0], self.n_clusters, self.settings, (0.0, 1.0))
            noise = squares[n + 1 :] >= squares[0] - TINY**2
            rows.append(
                {"term": " x ".join(names[i] for i in term) or "rest", "order": len(term), "df": df}
                | {"share": float(share[0]), "ci_low": low, "ci_high": high}
                | {"p": float((1 + noise.sum()) / (1 + n)) if df and self.n_clusters > 1 else 1.0}
            )
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_adjusted"] = adjusted
        return rows

    def _interval(self, weights: Array, n_cells: int, known: bool = True) -> Row:
        """An effect that is a weighted sum of cells; weights: [cell]."""
        if not known:
            return dict.fromkeys(("effect", "ci_low", "ci_high"), float("nan")) | {"n_cells": n_cells}
        effect = float(weights @ self.mean)
        low, high, _ = spread_interval(self.draws @ weights, effect, self.n_clusters, self.settings, (-1.0, 1.0))
        return {"effect": effect, "ci_low": low, "ci_high": high, "n_cells": n_cells}

    def _explained(self, y: Array, terms: Sequence[tuple[int, ...]] | None) -> Array:
        """Sum of squares about the mean that a model explains; terms None: the total. y: [row, cell] -> [row]."""
        y = y - y.mean(axis=1, keepdims=True)
        return ((y @ _basis(self.design.matrix(terms))) ** 2).sum(axis=1) if terms is not None else (y**2).sum(axis=1)

    def _rank(self, terms: Sequence[tuple[int, ...]]) -> int:
        return _basis(self.design.matrix(terms)).shape[1]


def _basis(matrix: Array) -> Array:
    """Orthonormal columns that span those of the matrix."""
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, singular > TINY * singular[0]]


def _choose(panel: Panel, factors: Sequence[str] | None) -> tuple[tuple[list[str], list[int]] | None, list[str]]:
    """The factors and the arms (places) of the design, or None, and notes."""
    recipes = [i for i, arm in enumerate(panel.arms) if arm.role == "recipe" or arm.crossed != arm.axes]
    if factors is None:
        sets = {frozenset(panel.arms[i].crossed): list(panel.arms[i].crossed) for i in recipes}
        designs = [_varied(panel, axes, recipes, exactly=True) for axes in sets.values()]
    else:
        known = {LABEL, *(axis for i in recipes for axis in panel.arms[i].crossed)}
        for factor in factors:
            if factor not in known:
                raise UnknownNameError(f"no recipe of the study has an axis {factor!r}.{did_you_mean(factor, known)}")
        designs = [_varied(panel, list(factors), recipes, exactly=False)]
    designs = [(varied, arms) for varied, arms in designs if len(varied) > 1]
    if not designs:
        return None, ["no factorial: among recipes with the same axes, fewer than two axes vary"]
    varied, arms = max(designs, key=lambda design: len(design[1]))
    answered = [i for i in arms if not np.isnan(panel.scores[:, i]).all()]
    notes = [f"left out, no answers yet: {panel.arms[i].name}" for i in arms if i not in answered]
    notes += [f"left out, other axes: {panel.arms[i].name}" for i in recipes if i not in arms]
    return (varied, answered), notes


def _varied(panel: Panel, axes: list[str], recipes: list[int], *, exactly: bool) -> tuple[list[str], list[int]]:
    """Those of the axes with two levels or more, and the recipes that have all of the axes (and no others)."""
    wanted = set(axes) - {LABEL}
    found = [(i, panel.arms[i].crossed.keys()) for i in recipes]
    arms = [i for i, keys in found if (keys == wanted if exactly else keys >= wanted)]
    answered = [i for i in arms if not np.isnan(panel.scores[:, i]).all()]
    return [axis for axis in axes if len({_level(panel.arms[i], axis) for i in answered}) > 1], arms


def _design(panel: Panel, factors: list[str], arms: list[int]) -> tuple[Design, list[int]]:
    values = [[_level(panel.arms[i], factor) for i in arms] for factor in factors]
    levels = {factor: tuple(dict.fromkeys(column)) for factor, column in zip(factors, values, strict=True)}
    codes = [[levels[factor].index(v) for v in column] for factor, column in zip(factors, values, strict=True)]
    return Design(levels, np.array(codes, np.intp).T), arms


def _level(arm: Arm, factor: str) -> str:
    value = arm.label if factor == LABEL else arm.crossed[factor]
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
