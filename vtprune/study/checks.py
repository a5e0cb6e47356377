"""What is wrong with a study beyond its fields one by one: labels, recipes over axes, models and paths."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vtprune.core.errors import VtpruneError, did_you_mean
from vtprune.core.spec import dump
from vtprune.loading import pick_device
from vtprune.study import grid
from vtprune.study.factorial import factorial
from vtprune.study.file import BASELINES, StudyError, StudyFile, is_path
from vtprune.study.identity import folder
from vtprune.study.names import FACTORIAL


def problems(study: StudyFile) -> list[str]:
    """What makes a study no valid one wherever it is read: labels, and recipes that do not fit their axes."""
    return [*labels(study), *grid.misfits(study)]


def everything(study: StudyFile, whole: bool = True) -> list[str]:
    """`problems`, and what else planning would refuse without looking into a model.

    whole: whether the study has all that its file has; else what only something left out may explain is not said.
    """
    found = labels(study, whole)
    try:
        if whole:
            grid.variants(study)
        else:
            found += grid.misfits(study, controls=True)
    except StudyError as error:
        found += error.problems
    if whole or grid.BUDGET in study.axes:
        try:
            factorial(study)
        except StudyError as error:
            found += error.problems
    return list(dict.fromkeys([*found, *_absent(study)]))


def labels(study: StudyFile, whole: bool = True) -> list[str]:
    """Labels that are taken, and a ``compare_to`` that is none (only if the study is ``whole``)."""
    taken = [name for name in BASELINES if name not in study.baselines.without]
    found = [
        f"label {entry.label!r} is that of the cells of a factorial; give this recipe a label of its own"
        for entry in study.recipes
        if entry.label == FACTORIAL
    ]
    for entry in study.recipes:
        if entry.label in taken:
            whose = "a baseline that is always there" if entry.label in BASELINES else "another recipe"
            found.append(f"label {entry.label!r} is taken by {whose}; give this recipe a label of its own")
        taken += [entry.label, *(f"{entry.label} ({control})" for control in entry.controls)]
    if whole and study.compare_to not in taken:
        found.append(f"compare_to: nothing is labelled {study.compare_to!r}.{did_you_mean(study.compare_to, taken)}")
    return found


def _absent(study: StudyFile) -> Iterator[str]:
    """Testbed models, devices and local files that are not there."""
    for ref in study.models:
        for look in (partial(folder, ref), partial(pick_device, ref.device)):
            try:
                look()
            except VtpruneError as error:
                yield f"model {ref.id!r}: {error}"
    here = f"the current directory is {Path.cwd()}"
    for task in study.tasks:
        for field, value in task:
            if is_path(type(task), field) and isinstance(value, str | Path) and not Path(value).expanduser().exists():
                yield f"task {dump(task)['name']!r}: {field}: there is no {value}; {here}"
