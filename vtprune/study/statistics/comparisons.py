"""Every variant against the unpruned model and one named variant, every recipe against its own controls.

All on the samples that both have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vtprune.core.errors import UnknownNameError, did_you_mean
from vtprune.study.names import FACTORIAL
from vtprune.study.statistics.accuracy import variant_row
from vtprune.study.statistics.bootstrap import Settings, cluster_sums
from vtprune.study.statistics.frames import VARIANT, Row
from vtprune.study.statistics.intervals import compact, estimate_means
from vtprune.study.statistics.paired import holm, least_step, mcnemar, resolvable, sign_flip, standard_error
from vtprune.study.statistics.panel import Panel

TOKENS_AND_FLOPS = ("retained_mean", "retained_flops")
"""Costs of both sides that stand beside a comparison: equal budgets are not equal costs."""
COMPARISONS: Mapping[str, type] = {
    **VARIANT,
    "against": object,
    "own": bool,
    "reference": object,
    "n_samples": int,
    "n_clusters": int,
    "accuracy": float,
    "reference_accuracy": float,
    **dict.fromkeys(TOKENS_AND_FLOPS, float),
    **{f"reference_{share}": float for share in TOKENS_AND_FLOPS},
    "difference": float,
    "ci_low": float,
    "ci_high": float,
    "se": float,
    "test": object,
    "p": float,
    "p_mcnemar": float,
    "p_adjusted": float,
    "n_comparisons": int,
    "significant": bool,
    "resolvable": float,
}
MCNEMAR, SIGN_FLIP, NO_TEST = "McNemar exact", "sign flip of clusters", "none"


@dataclass(frozen=True)
class Pair:
    """Places in ``panel.arms``; reference None if no variant fits; against: label of the reference. own: whether that
    is a control of the arm, and ``against`` says which."""

    arm: int
    reference: int | None
    against: str
    own: bool = False


def comparison_rows(
    panel: Panel,
    compare_to: str | None,
    settings: Settings,
    costs: Sequence[Row],
    merged: Sequence[Mapping[str, str]] = (),
) -> list[Row]:
    """One row per pair: `COMPARISONS`.

    A variant meets the reference whose axes (budget and whatever else both have, but the seed) are equal; each of
    them, if a reference has an axis more. ``against`` names the family over which p is adjusted (Holm): all pairs of
    this model and task with one reference label. The cells of a factorial are a family of their own, as there may be
    hundreds, and attribution is what they are for. So are the pairs of all recipes and their controls of one kind,
    ``own random`` and so on. A pair without common samples has no p and is never significant.

    costs: of each arm, see `cost_rows`. merged: as in `own_pairs`.
    """
    full = sorted({arm.label for arm in panel.arms if arm.role == "full"}) or ["unpruned"]
    rows = []
    for label in [*full, *([] if compare_to is None or compare_to in full else [compare_to])]:
        pairs = _pairs(panel, label)
        for crossed in (False, True):
            family = [pair for pair in pairs if (panel.arms[pair.arm].label == FACTORIAL) is crossed]
            rows += _family(panel, family, settings, costs)
    for family in own_pairs(panel, merged):
        rows += _family(panel, family, settings, costs)
    return rows


def check_label(compare_to: str | None, panels: list[Panel]) -> None:
    """Raises UnknownNameError if no variant of the study is labelled so."""
    labels = {arm.label for panel in panels for arm in panel.arms}
    if compare_to is not None and compare_to not in labels:
        raise UnknownNameError(
            f"no variant is labelled {compare_to!r}, and results cannot be compared to it."
            f"{did_you_mean(compare_to, labels)}"
        )


def _pairs(panel: Panel, label: str) -> list[Pair]:
    candidates = [i for i, arm in enumerate(panel.arms) if arm.label == label]
    pairs = []
    for i, arm in enumerate(panel.arms):
        if arm.role != "full" and i not in candidates:
            found: list[int | None] = [*panel.references(arm, candidates)]
            pairs += [Pair(i, reference, label) for reference in found or [None]]
    return pairs


def own_pairs(panel: Panel, merged: Sequence[Mapping[str, str]]) -> list[list[Pair]]:
    """Each recipe with its controls, a family for each kind of control.

    merged: the plan's variants that are planned under another name (`vtprune.study.plan.Merged`), as the store has
    them. A control may be one (the random one of a recipe at the input is the baseline ``random``).
    """
    places = {arm.name: i for i, arm in enumerate(panel.arms)}
    recipes = {arm.label for arm in panel.arms if arm.role == "recipe"}
    controls: dict[str, dict[str, list[int]]] = {}
    for i, arm in enumerate(panel.arms):
        if arm.role == "control" and arm.of in recipes:
            controls.setdefault(_kind(arm.label, arm.of), {}).setdefault(arm.of, []).append(i)
    for one in merged:
        if one["of"] in recipes and one["arm"] in places:
            known = controls.setdefault(_kind(one["label"], one["of"]), {}).setdefault(one["of"], [])
            known += [places[one["arm"]]] if places[one["arm"]] not in known else []
    families = []
    for kind, by_recipe in controls.items():
        family = []
        for i, arm in enumerate(panel.arms):
            if arm.role == "recipe" and arm.label in by_recipe:
                references: list[int | None] = [*panel.references(arm, by_recipe[arm.label])]
                family += [Pair(i, reference, f"own {kind}", own=True) for reference in references or [None]]
        families.append(family)
    return families


def _kind(control: str, of: str) -> str:
    """``random`` of ``fastv (random)``."""
    return control.removeprefix(of).strip().removeprefix("(").removesuffix(")")


def _family(panel: Panel, pairs: list[Pair], settings: Settings, costs: Sequence[Row]) -> list[Row]:
    """The rows of all comparisons with one reference, p values adjusted."""
    if not pairs:
        return []
    nothing = np.full(len(panel.samples), np.nan)
    differences = np.stack(
        [nothing if p.reference is None else panel.scores[:, p.arm] - panel.scores[:, p.reference] for p in pairs],
        axis=1,
    )
    estimates = estimate_means(differences, panel.clusters, settings, bounds=(-1.0, 1.0))
    rows = []
    for pair, difference, estimate in zip(pairs, differences.T, estimates, strict=True):
        reference = None if pair.reference is None else panel.arms[pair.reference]
        row = variant_row(panel, panel.arms[pair.arm]) | {
            "against": pair.against,
            "own": pair.own,
            "reference": reference and reference.name,
            "n_samples": estimate.n,
            "n_clusters": estimate.clusters,
            "difference": estimate.mean,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "test": NO_TEST,
            "significant": False,
        }
        row |= {share: costs[pair.arm][share] for share in TOKENS_AND_FLOPS}
        if pair.reference is not None:
            row |= {f"reference_{share}": costs[pair.reference][share] for share in TOKENS_AND_FLOPS}
        row["note"] = _note(panel, pair, estimate.n)
        if estimate.n:
            row |= _test(panel, pair, difference, settings)
        rows.append(row)
    return _adjusted(rows, settings)


def _test(panel: Panel, pair: Pair, difference: np.ndarray, settings: Settings) -> Row:
    """The columns that need common samples."""
    both = ~np.isnan(difference)
    difference, codes = difference[both], compact(panel.clusters[both])
    scores = panel.scores[both]
    binary = _one_seed(panel, pair) and bool(np.isin(scores[:, [pair.arm, pair.reference]], (0, 1)).all())
    alone = int(codes.max()) + 1 == len(codes)
    p_mcnemar = mcnemar(difference) if binary else float("nan")
    return {
        "accuracy": float(scores[:, pair.arm].mean()),
        "reference_accuracy": float(scores[:, pair.reference].mean()),
        "se": standard_error(difference, codes),
        "step": least_step(difference, codes),
        "test": MCNEMAR if binary and alone else SIGN_FLIP,
        "p": p_mcnemar if binary and alone else sign_flip(cluster_sums(difference, codes), settings.seed),
        "p_mcnemar": p_mcnemar,
    }


def _adjusted(rows: list[Row], settings: Settings) -> list[Row]:
    tested = [row for row in rows if "p" in row]
    if tested:
        for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"], row["significant"] = adjusted, adjusted < settings.alpha
            row["resolvable"] = resolvable(row["se"], row["n_clusters"], row["step"], settings.alpha, len(tested))
    for row in rows:
        row["n_comparisons"] = len(tested)
    return rows


def _one_seed(panel: Panel, pair: Pair) -> bool:
    return all(
        (~np.isnan(panel.seed_scores[i])).any(axis=0).sum() == 1 for i in (pair.arm, pair.reference) if i is not None
    )


def _note(panel: Panel, pair: Pair, n: int) -> str:
    """What keeps the comparison from being whole, or ""."""
    arm = panel.arms[pair.arm]
    if pair.reference is None:
        if pair.own:
            return f"no control {pair.against.removeprefix('own ')!r} of it has its axes"
        if arm.budget is None and any(other.label == pair.against and other.budget is not None for other in panel.arms):
            return f"it has no single budget at which to meet {pair.against!r}"
        return f"no variant {pair.against!r} with the axes of {arm.name!r}"
    reference = panel.arms[pair.reference]
    notes = [f"{one.name}: {one.note}" for one in (arm, reference) if one.note]
    expected = max(one.expected or 0 for one in (arm, reference))
    if not n:
        notes.append("no sample in common")
    elif n < expected:
        notes.append(f"{n} of {expected} samples in common")
    return "; ".join(notes)
