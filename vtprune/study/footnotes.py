"""What stands below an accuracy table: how to read it, what it cannot resolve, and what is unfinished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtprune.study.names import FACTORIAL
from vtprune.study.power import groups_needed, least_p
from vtprune.study.statistics import Summary
from vtprune.study.statistics.panel import last

if TYPE_CHECKING:
    import pandas as pd

NO_BUDGET = "any"
OVERALL = "all"
OWN_RANDOM = "own random"
TOO_FEW = "none can be found: too few samples"
MARKS = {"worse": "↓", "better": "↑", "below": "-", "above": "+"}
LATEX_MARKS = {"↓": r"\downarrow", "↑": r"\uparrow", "…": r"\dagger", "‡": r"\ddagger", "§": r"\S"}
PARTIAL, UNEQUAL, EVICTS = "…", "‡", "§"
COSTS = {"tokens (%)": "retained_mean", "cache (%)": "retained_kv"}
"""Columns of a table beside its accuracies, and the shares of `Summary.accuracy` in them."""
COST_CAPTION = (
    " Tokens and cache: what was really kept, in the order of the columns: vision tokens that enter a layer, mean over "
    "layers, and those in the cache after the prompt, mean over layers and KV heads; per cent of the unpruned model's."
)
TOLERANCE = 0.02
"""Share of the unpruned model's tokens by which two sides of a mark may differ, mean over layers."""


def method_name(row: dict[str, Any]) -> str:
    """Label and axes but the budget of the column: the first one, of recipes with a budget for each stage."""
    column = next((axis for axis in row["axes"] if last(axis) == "budget"), None)
    axes = [f"{last(axis)}={value}" for axis, value in row["axes"].items() if axis != column]
    return " ".join([row["label"], *axes])


def marked(summary: Summary) -> pd.DataFrame:
    """The comparisons that give a mark, with ``more`` (share of tokens that a variant has more than its reference, mean
    over layers) and ``unequal``, whether that is more than `TOLERANCE`; the unpruned model's marks are never."""
    found, accuracy = summary.comparisons, summary.accuracy
    found = found[found["significant"] & ~found["own"]]
    found = found.assign(more=found["retained_mean"] - found["reference_retained_mean"])
    pruned = ~found["against"].isin(accuracy.loc[accuracy["role"] == "full", "label"])
    return found.assign(unequal=pruned & (found["more"].abs() > TOLERANCE + 1e-9))


def caption(summary: Summary, column: str) -> str:
    """How to read a table. column: what its columns are, in words."""
    level = f"{100 * summary.settings.confidence:g} %"
    text = f"± half the width of the {level} interval; in brackets its ends, where that would be off by more than half "
    text += "a point, or beyond 0 or 100. "
    text += f"{MARKS['worse']} {MARKS['better']}: worse or better than the unpruned model"
    if summary.compare_to is not None:
        text += f"; {MARKS['below']} {MARKS['above']}: worse or better than {summary.compare_to}"
    alpha = f"{summary.settings.alpha:.3g}"
    text += (
        f" (paired test, Holm-adjusted p < {alpha}). No mark: no difference was found, which is not the same as none."
    )
    if summary.comparisons["own"].any():
        text += " Marks are not about a recipe's own controls."
    return text + f" Bold: the highest estimate of a {column}, not a claim of a difference."


def footnotes(summary: Summary, rows: pd.DataFrame) -> tuple[str, ...]:
    """Of the table of one model and task; rows: of `Summary.accuracy`, those of the table."""
    first, found = rows.iloc[0], summary.comparisons
    found = found[(found["model"] == first["model"]) & (found["task"] == first["task"])]
    notes = []
    listed = found[(found["label"] != FACTORIAL) & ~found["own"]]
    for against, family in listed.groupby("against", sort=False):
        notes.append(f"Against {against}: {_resolution(family, summary.settings.alpha)}.")
        for row in family[family["reference"].isna()].to_dict("records"):
            notes.append(f"{row['name']}: {row['note']}.")
    notes += _against_own_random(found)
    notes += _evictions(rows)
    shown = marked(summary)
    same = (shown["model"] == first["model"]) & (shown["task"] == first["task"])
    notes += _unequal_tokens(shown[same & shown["unequal"] & (shown["label"] != FACTORIAL)])
    if (found["label"] == FACTORIAL).any():
        notes.append("The cells of the factorial are not listed.")
    for note, same_note in rows[rows["status"] != "complete"].groupby("note", sort=False):
        notes.append(f"{PARTIAL} {', '.join(same_note['name'])}: {str(note).rstrip('.')}.")
    return tuple(dict.fromkeys(notes))


def groups_caption(types: pd.DataFrame) -> str:
    """What the accuracy of a group is, and of how many questions; types: of `Summary.types`, one model and task."""
    counts = types[types["kind"] == "type"].groupby("type")["n_samples"].max()
    parts = []
    for group, rows in types[types["kind"] == "group"].groupby("type", sort=False):
        members = max(rows["members"], key=len)
        listed = [f"{member} (n={counts[member]})" for member in members]
        if listed:
            parts.append(f"{group} of {', '.join(listed[:-1])}{' and ' * (len(listed) > 1)}{listed[-1]}")
    text = "A group is the mean of its types' accuracies, each weighing the same, however few questions it has"
    return f" {text}: {'; '.join(parts)}." if parts else ""


def is_harmless(row: Mapping[str, Any]) -> bool:
    """Whether most answers of a variant cannot differ from the unpruned model's, whatever it drops: it evicts after the
    prompt, and they are of one token."""
    return bool(row["evicts_only"]) and row["one_token"] > 0.5


def _evictions(rows: pd.DataFrame) -> list[str]:
    """A sentence for each method that only evicts from the cache; rows: of `Summary.accuracy`."""
    notes = []
    for method, own in rows.assign(method=list(map(method_name, rows.to_dict("records")))).groupby(
        "method", sort=False
    ):
        own = own[own["evicts_only"]]
        harmless = [row for row in own.to_dict("records") if is_harmless(row)]
        if harmless:
            low, high = (f"{100 * pick(row['one_token'] for row in harmless):.0f}" for pick in (min, max))
            notes.append(
                f"{EVICTS} {method} evicts from the KV cache only, after all layers have read the prompt: the first "
                f"token of an answer is the unpruned model's whatever is evicted, and "
                f"{low if low == high else f'{low} to {high}'} % of its answers are of one token (or none). It can "
                f"lose only what comes after, and where an answer ends."
            )
    return notes


def _against_own_random(found: pd.DataFrame) -> list[str]:
    """One sentence: where each recipe was found better or worse than its own random control, and where not."""
    methods: dict[str, dict[str, list[str]]] = {}
    for row in found[found["against"] == OWN_RANDOM].to_dict("records"):
        budget = NO_BUDGET if row["budget"] is None else str(row["budget"])
        methods.setdefault(method_name(row), {}).setdefault(verdict(row), []).append(budget)
    parts = [
        f"{method} " + ", ".join(f"{finding} at {', '.join(budgets)}" for finding, budgets in findings.items())
        for method, findings in methods.items()
    ]
    return [f"Against its own random control (same sites and budgets): {'; '.join(parts)}."] if parts else []


def _unequal_tokens(unequal: pd.DataFrame) -> list[str]:
    """One sentence: which marks compare unlike numbers of tokens, and by how much; a recipe's controls go with it."""
    differences: dict[tuple[str, str, str], list[float]] = {}
    for row in unequal.to_dict("records"):
        method = row["of"] if row["role"] == "control" and row["of"] else method_name(row)
        key = (method, "more" if row["more"] > 0 else "fewer", row["against"])
        differences.setdefault(key, []).append(100 * abs(row["more"]))
    parts = []
    for (method, direction, against), values in differences.items():
        low, high = (f"{value:.0f}" for value in (min(values), max(values)))
        parts.append(f"{method} keeps {low if low == high else f'{low} to {high}'} points {direction} than {against}")
    text = f"{UNEQUAL} Equal budgets, but not equal tokens per layer: {'; '.join(parts)}"
    return [f"{text}. Read its own random control, or the curve over realised tokens."] if parts else []


def verdict(row: Mapping[str, Any]) -> str:
    """What a comparison found, in words."""
    if math.isnan(row["p_adjusted"]):
        return "not tested"
    if not row["significant"]:
        return TOO_FEW if math.isinf(row["resolvable"]) else "no difference found"
    return "better" if row["difference"] > 0 else "worse"


def _resolution(family: pd.DataFrame, alpha: float) -> str:
    tested = family.dropna(subset=["resolvable"])
    if not len(tested):
        return "nothing to compare with yet"
    groups, pairs = int(tested["n_clusters"].max()), len(tested)
    data = f"{tested['n_samples'].max()} samples in {groups} independent groups"
    needed = groups_needed(alpha, pairs)
    if groups < needed:
        return (
            f"no difference can be found with {data} (pictures, or samples on their own): they give no p below "
            f"{least_p(groups):.2g}, and {pairs} comparison{'s need' if pairs > 1 else ' needs'} at least {needed} "
            "groups"
        )
    finite = tested.loc[tested["resolvable"] <= 1, "resolvable"]
    if finite.empty:
        return f"no difference can be found, with 80 % power, with {data} and {pairs} comparisons: scores vary too much"
    low, high = (f"{100 * value:.1f}" for value in (finite.min(), finite.max()))
    size = f"{low} points" if low == high else f"{low} points (the easiest pair) to {high} points (the hardest)"
    text = f"{data} and {pairs} comparisons resolve, with 80 % power, differences of at least {size}"
    return text + (f"; {pairs - len(finite)} of the pairs can show none that reliably" if len(finite) < pairs else "")
