"""A recipe of a study over its axes: the recipe at every point, and what is wrong where."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import yaml

from vtprune.core.errors import RecipeError, did_you_mean
from vtprune.core.overrides import STAGE_FIELDS, apply_overrides
from vtprune.core.recipe import Recipe

if TYPE_CHECKING:
    from vtprune.study.file import RecipeEntry

BUDGET = "budget"
ROOTS = (*STAGE_FIELDS, "stages", "replace")
"""What an axis may begin with."""
NOTHING_TO_SET = f"the axis {BUDGET!r} has nothing to set, as no stage of the recipe has a budget"

Axes = Mapping[str, tuple[Any, ...]]
Point = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """Something about a recipe that does not fit. where: the axis, or its levels, that make it so; "" for the recipe as
    it is. shared: whether the axis is the study's."""

    label: str
    where: str
    text: str
    shared: bool


@dataclass(frozen=True)
class Crossing:
    """recipes: the valid recipe of each point that has one, in the order of the axes. faults: of the other points."""

    recipes: tuple[tuple[Point, Recipe], ...]
    faults: tuple[Fault, ...]


def cross(entry: RecipeEntry, axes: Axes, shared: bool) -> Crossing:
    """A recipe at every point of the axes, its ``set`` applied first; axes with an `unknown_axis` count for nothing.

    What a recipe lacks by itself and an axis gives it is no fault. shared: whether the axes are the study's.
    """
    axes = {path: levels for path, levels in axes.items() if unknown_axis(path) is None}
    data = entry.data()
    tried = [_Tried(data, point) for point in _points(axes)]
    said = [*_overwritten(entry, axes, shared), *_same(axes)]
    faults = [Fault(entry.label, "", text, shared) for text in said]
    if any(one.problems for one in tried):
        faults += [Fault(entry.label, where, text, shared) for where, text in _located(data, axes, tried)]
    return Crossing(tuple((one.point, one.recipe) for one in tried if one.recipe is not None), tuple(faults))


def unknown_axis(path: str) -> str | None:
    """That an axis begins with nothing that a recipe has, in words; None if it may be one."""
    first = _steps(path)[0]
    return None if first in ROOTS else f"unknown axis {path!r}.{did_you_mean(first, ROOTS)}"


def text(value: Any) -> Any:
    """What tables write for a value: a scalar as it is, a component or a budget as short text, nothing as ``none``."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}={text(entry)}" for key, entry in value.items() if key != "name")
        name = value.get("name")
        return inside if name is None else f"{name}({inside})" if inside else name
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(text(entry)) for entry in value) + "]"
    return "none" if value is None else value


class _Tried:
    """A recipe at one point. reached: whether the point's values could be set at all."""

    def __init__(self, data: Mapping[str, Any], point: Point) -> None:
        self.point = point
        self.reached = False
        self.recipe: Recipe | None = None
        self.problems: tuple[str, ...] = ()
        try:
            data = apply_overrides(data, {path: value for path, value in point.items() if path != BUDGET}, "recipe")
            self.reached = True
            if BUDGET in point:
                data = _with_budget(data, point[BUDGET])
            self.recipe = Recipe.parse(data)
        except RecipeError as error:
            self.problems = error.problems


def _with_budget(data: Mapping[str, Any], level: Any) -> dict[str, Any]:
    """The recipe with that budget in every stage that has one, or that is wrong without one."""
    stages = data.get("stages")
    given = dict(enumerate(stages)) if isinstance(stages, list | tuple) else {}
    paths = {f"stages.{place}.{BUDGET}": stage for place, stage in given.items() if isinstance(stage, Mapping)}
    found = [path for path, stage in paths.items() if stage.get(BUDGET) is not None]
    if len(found) < len(paths) or not paths:
        before = _problems(data)
        lacking = [path for path in paths if path not in found]
        found += [path for path in lacking if before - _problems(apply_overrides(data, {path: level}, "recipe"))]
        if not found and not before:
            raise RecipeError([NOTHING_TO_SET])
    return apply_overrides(data, dict.fromkeys(found, level), "recipe")


def _problems(data: Mapping[str, Any]) -> set[str]:
    try:
        Recipe.parse(data)
    except RecipeError as error:
        return set(error.problems)
    return set()


def _points(axes: Axes) -> Iterator[Point]:
    return (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


def _located(data: Mapping[str, Any], axes: Axes, tried: Sequence[_Tried]) -> Iterator[tuple[str, str]]:
    """Where and what: each fault once, with the axis or the levels that make it."""
    alone = _Tried(data, {})
    single = {path: [_Tried(data, {path: level}) for level in levels] for path, levels in axes.items()}
    reached = [one for one in tried if one.reached]
    seen = [one.problems for one in tried]
    for axis, ones in single.items():  # what is seen nowhere else, because other axes spoil every point of the level
        spoilt = [one for one in ones if all(at.problems for at in tried if at.point[axis] == one.point[axis])]
        seen += [tuple(problem for problem in one.problems if problem not in alone.problems) for one in spoilt]
    if not reached:
        given = [{problem for one in ones for problem in one.problems} for ones in single.values()]
        seen.append(tuple(problem for problem in alone.problems if all(problem in by for by in given)))
    for problem in dict.fromkeys(problem for problems in seen for problem in problems):
        everywhere = all(problem in one.problems for one in reached)
        if everywhere and problem in alone.problems:
            yield "", problem
            continue
        by_itself = [path for path, ones in single.items() if any(problem in one.problems for one in ones)]
        path = next((path for path in by_itself if problem not in alone.problems), None) or _deciding(
            problem, axes, reached
        )
        if path is None:
            points = [one.point for one in tried if problem in one.problems]
            more = f" and at {len(points) - 1} more points" if len(points) > 1 else ""
            yield f"with {names(points[0])}{more}", problem
            continue
        ones = single[path] if path in by_itself else reached
        levels = [
            level for level in axes[path] if any(problem in one.problems for one in ones if one.point[path] == level)
        ]
        whole = len(levels) == len(axes[path]) > 1 or problem == NOTHING_TO_SET
        where = f"with the axis {path!r}" if whole else f"with {path}={', '.join(str(text(level)) for level in levels)}"
        yield where, problem.removeprefix(f"override {path!r}: ")


def _deciding(problem: str, axes: Axes, tried: Sequence[_Tried]) -> str | None:
    """The axis whose level alone says whether a point has the problem."""
    for path in axes:
        have = [one.point[path] for one in tried if problem in one.problems]
        lack = [one.point[path] for one in tried if problem not in one.problems]
        if have and lack and not any(level in lack for level in have):
            return path
    return None


def names(point: Point) -> str:
    """A point in words."""
    return ", ".join(f"{path}={text(value)}" for path, value in point.items()) or "no axes"


def _overwritten(entry: RecipeEntry, axes: Axes, shared: bool) -> Iterator[str]:
    """What ``set`` gives and an axis would replace."""
    for given, value in entry.set.items():
        for path, levels in axes.items():
            if not _replaces(path, given, value):
                continue
            plain = yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()
            written = f"`set: {{{given}: {plain[1:-1]}}}`"
            shown = ", ".join(str(text(level)) for level in levels)
            if not shared:
                yield f"{written} is what its own axis {path!r} sets as well ({shown}); leave one of the two out"
                continue
            others = [other for other in axes if other != path]
            also = f" (with {', '.join(map(repr, others))}, as they replace the study's)" if others else ""
            yield (
                f"{written} is what the study's axis {path!r} sets as well ({shown}); put it into `axes` of this "
                f"recipe in place of `set`: `axes: {{{given}: {plain}}}`{also}"
            )


def _same(axes: Axes) -> Iterator[str]:
    """Pairs of axes of which the one that is set last leaves nothing of the other."""
    order = [*(path for path in axes if path != BUDGET), *(path for path in axes if path == BUDGET)]
    for place, last in enumerate(order):
        for path in order[:place]:
            if _covers(last, path):
                first, second = (one for one in axes if one in (path, last))
                yield f"the axes {first!r} and {second!r} set the same thing; leave one of the two out"


def _replaces(axis: str, given: str, value: Any) -> bool:
    """Whether an axis overwrites something of a value that was written at ``given``."""
    setting = _steps(given)
    by = _set_by(axis, setting)
    return setting[: len(by)] == by or (by[: len(setting)] == setting and _holds(value, by[len(setting) :]))


def _covers(axis: str, path: str) -> bool:
    """Whether nothing at a path outlasts an axis."""
    steps = _steps(path)
    by = _set_by(axis, steps)
    return steps[: len(by)] == by


def _set_by(axis: str, near: Sequence[str]) -> list[str]:
    """The steps to what an axis sets; for ``budget``, which sets that of every stage, in the stage of ``near``."""
    return [*near[:2], BUDGET] if axis == BUDGET else _steps(axis)


def _holds(value: Any, steps: Sequence[str]) -> bool:
    """Whether a value that was written says something at these steps."""
    for step in steps:
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list | tuple) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return False
    return value is not None


def _steps(path: str) -> list[str]:
    steps = path.replace("__", ".").split(".")
    return ["stages", "0", *steps] if steps[0] in STAGE_FIELDS else steps
