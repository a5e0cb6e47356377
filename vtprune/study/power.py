"""How many independent groups of samples a finding needs at least, known before anything runs.

The paired tests of a study flip the sign of what each group (a picture with its questions, or a sample on its own)
gives. With k groups in which two variants differ there are 2^k ways to flip, so that no p is below 2 / 2^k; and Holm's
correction over m comparisons asks of the smallest p that m times it be below the level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from vtprune.core.spec import dump
from vtprune.study.labels import model_labels, task_labels
from vtprune.study.names import FACTORIAL

if TYPE_CHECKING:
    from vtprune.core.task import Task
    from vtprune.study.plan import Plan

LEVEL: Final = 0.05
"""Of a report's tests."""
LOOKED_AT: Final = 1024
"""Samples of a task that are looked at, at most, to count their groups."""


def least_p(groups: int) -> float:
    """The smallest two-sided p that so many unlike groups can give, whatever the differences: 2 / 2^groups."""
    return min(1.0, 2 * 0.5**groups)


def groups_needed(level: float, comparisons: int = 1) -> int:
    """The fewest unlike groups with which one of so many comparisons can be significant after Holm's correction:
    11 of 30 comparisons at 5 %."""
    groups = 1
    while comparisons * least_p(groups) >= level:
        groups += 1
    return groups


def too_few(plan: Plan) -> Iterator[str]:
    """A sentence for each model and task whose samples are of too few groups for any difference from the unpruned model
    to be found. Reads samples of the tasks until it has seen enough, `LOOKED_AT` at most."""
    pruned: dict[tuple[str, str], set[str]] = defaultdict(set)
    plain: dict[str, dict[str, object]] = {}
    measured = set()
    for cell, model, task in zip(plan.cells, model_labels(plan.cells), task_labels(plan.cells), strict=True):
        plain[task] = dict(cell.task)
        axes = {axis: value for axis, value in cell.variant.axes.items() if axis.rpartition(".")[2] != "seed"}
        if cell.variant.role == "full":
            measured.add((model, task))
        elif cell.variant.label != FACTORIAL:
            pruned[model, task].add(f"{cell.variant.label} {sorted(axes.items(), key=str)}")
    for (model, task), variants in pruned.items():
        needed = groups_needed(LEVEL, len(variants))
        source = next((one for one in plan.study.tasks if dump(one) == plain[task]), None)
        if source is None or (model, task) not in measured:
            continue
        found = _groups(source, plan.study.limit, needed)
        if found is not None and found < needed:
            yield (
                f"{model} / {task}: no difference from the unpruned model can be found with these samples. They are of "
                f"{found} picture{'s' * (found != 1)} (or single questions), so that no p is below "
                f"{least_p(found):.2g}, and {len(variants)} comparisons need at least {needed} of them; raise `limit`, "
                f"or compare less"
            )


def _groups(task: Task, limit: int | None, enough: int) -> int | None:
    """Independent groups among a task's first ``limit`` samples, counted up to ``enough``; None if not known without
    reading more than `LOOKED_AT`."""
    seen, read = set(), 0
    for sample in islice(task.samples(), min(limit or LOOKED_AT, LOOKED_AT)):
        seen.add(("group", sample.group) if sample.group else ("sample", sample.id))
        read += 1
        if len(seen) >= enough:
            break
    return len(seen) if len(seen) >= enough or read < LOOKED_AT or limit == read else None
