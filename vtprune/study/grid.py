"""From a study to its variants: recipes x axes x seeds, the baselines, and the controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from vtprune.core.budget import Budget
from vtprune.core.errors import RecipeError
from vtprune.core.recipe import Recipe
from vtprune.study.cell import Variant
from vtprune.study.controls import ControlError, control
from vtprune.study.file import RecipeEntry, StudyError, StudyFile

BUDGET, SEED = "budget", "seed"
Axes = Mapping[str, tuple[Any, ...]]


def variants(study: StudyFile) -> list[Variant]:
    """Every variant but those of the factorial: baselines, then each recipe with its controls; names are unique.

    Recipes that come out equal under one label are planned once, with the axes of the first. Raises StudyError naming
    every recipe and axis that do not fit.
    """
    problems: list[str] = []
    found: list[Variant] = []
    recipes: list[Variant] = []
    for entry in study.recipes:
        try:
            recipes += _entry(study, entry)
        except StudyError as error:
            problems += error.problems
    if not problems:
        try:
            found = _baselines(study)
        except StudyError as error:
            problems += error.problems
    if problems:
        raise StudyError(problems, f"study {study.name!r}")
    return [*found, *recipes]


def budgets(study: StudyFile) -> list[Any]:
    """The levels of the budget: of the study's axis and the recipes' own, and what recipes of one stage have without an
    axis for it; without any axis, all budgets in the recipes."""
    grids = [study.axes, *(entry.axes or {} for entry in study.recipes)]
    levels = [level for axes in grids for path in axes if path.rpartition(".")[2] == BUDGET for level in axes[path]]
    varied = bool(levels)
    levels += [level for entry in study.recipes for level in _fixed_budgets(study, entry)]
    if not varied:
        stages = [stage for entry in study.recipes for stage in entry.load().stages]
        levels += [_short_budget(stage.budget) for stage in stages if stage.budget is not None]
    return [level for place, level in enumerate(levels) if level not in levels[:place]]


def _short_budget(budget: Budget) -> Any:
    return budget.value if budget.unit == "keep_ratio" else budget.model_dump()


def _fixed_budget(recipe: Recipe, axes: Iterable[str]) -> dict[str, Any]:
    """The axis ``budget`` of a recipe of one stage whose budget no axis sets; empty for others."""
    stage, *more = recipe.stages
    if more or stage.budget is None or any(path.rpartition(".")[2] == BUDGET for path in axes):
        return {}
    return {BUDGET: _short_budget(stage.budget)}


def _fixed_budgets(study: StudyFile, entry: RecipeEntry) -> list[Any]:
    """`_fixed_budget` at every point of the recipe's axes; points that do not fit are left to `_entry` to refuse."""
    axes: Axes = study.axes if entry.axes is None else entry.axes
    levels: list[Any] = []
    for values in product(*axes.values()):
        try:
            recipe = entry.load(_overrides(entry, dict(zip(axes, values, strict=True))))
        except (RecipeError, StudyError):
            continue
        levels += _fixed_budget(recipe, axes).values()
    return levels


def text(value: Any) -> Any:
    """What tables write for a value: a scalar as it is, a component or a budget as short text, nothing as ``none``."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}={text(entry)}" for key, entry in value.items() if key != "name")
        name = value.get("name")
        return inside if name is None else f"{name}({inside})" if inside else name
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(text(entry)) for entry in value) + "]"
    return "none" if value is None else value


def seeded(recipe: Recipe, seeds: tuple[int, ...]) -> Iterator[tuple[dict[str, int], Recipe]]:
    """The recipe with each seed in every component that has one, and the axis; without any, the recipe alone."""
    data = recipe.to_dict()
    if not _set_seed(data["stages"], None):
        yield {}, recipe
        return
    for seed in seeds:
        data = recipe.to_dict()
        _set_seed(data["stages"], seed)
        yield {SEED: seed}, Recipe.parse(data)


def _set_seed(node: Any, seed: int | None) -> bool:
    """Write ``seed`` (unless None) into every component that has one; whether there is any."""
    found = False
    if isinstance(node, dict):
        if "name" in node and SEED in node:
            found = True
            node[SEED] = node[SEED] if seed is None else seed
        node = list(node.values())
    if isinstance(node, list):
        inside = [_set_seed(entry, seed) for entry in node]
        found = found or any(inside)
    return found


def _entry(study: StudyFile, entry: RecipeEntry) -> list[Variant]:
    """A recipe over its axes and seeds, then its controls over the same."""
    axes: Axes = study.axes if entry.axes is None else entry.axes
    own_seeds = any(path.rpartition(".")[2] == SEED for path in (*axes, *entry.set))
    seeds = () if own_seeds else study.seeds
    recipes: list[Variant] = []
    controls: dict[str, list[Variant]] = {kind: [] for kind in entry.controls}
    problems: list[str] = []
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        shown = {path: text(value) for path, value in point.items()}
        try:
            recipe = entry.load(_overrides(entry, point))
        except (RecipeError, StudyError) as error:
            problems += [f"recipe {entry.label!r} with {_names(point)}: {problem}" for problem in error.problems]
            continue
        shown |= {path: text(value) for path, value in _fixed_budget(recipe, axes).items()}
        for axis, one in seeded(recipe, seeds) if seeds else [({}, recipe)]:
            recipes.append(Variant(entry.label, "recipe", one.to_dict(), axes={**shown, **axis}))
        for kind, made in controls.items():
            try:
                changed = Recipe.parse(control(recipe.to_dict(), kind))
            except ControlError as error:
                problems.append(f"recipe {entry.label!r}: {error}")
                continue
            for axis, one in seeded(changed, study.seeds):
                label = f"{entry.label} ({kind})"
                made.append(Variant(label, "control", one.to_dict(), axes={**shown, **axis}, of=entry.label))
    if problems:
        alone = (
            ["what fits only some recipes goes into `axes` of those recipes alone"]
            if entry.axes is None and axes
            else []
        )
        raise StudyError([*dict.fromkeys(problems), *alone][:8])
    return [*_once(recipes), *(variant for group in controls.values() for variant in _controls_once(group))]


def _names(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={text(value)}" for path, value in point.items()) or "no axes"


def _overrides(entry: RecipeEntry, point: Mapping[str, Any]) -> dict[str, Any]:
    """The axes' values as overrides, ``budget`` spelled out for every stage that has one."""
    if BUDGET not in point:
        return dict(point)
    overrides = {path: value for path, value in point.items() if path != BUDGET}
    stages = [place for place, stage in enumerate(entry.load().stages) if stage.budget is not None]
    if not stages:
        raise StudyError(["the axis 'budget' has nothing to set, as no stage of the recipe has a budget"])
    return {**overrides, **{f"stages.{place}.{BUDGET}": point[BUDGET] for place in stages}}


def _once(group: list[Variant]) -> list[Variant]:
    seen: dict[str, Variant] = {}
    for variant in group:
        assert variant.recipe is not None
        seen.setdefault(Recipe.parse(variant.recipe).hash, variant)
    return list(seen.values())


def _controls_once(group: Sequence[Variant]) -> list[Variant]:
    """Equal ones once, without the axes that make no difference to them, so that they are the control of each level."""
    levels = {axis: {variant.axes[axis] for variant in group} for axis in (group[0].axes if group else ())}
    same: dict[str, list[Variant]] = {}
    for variant in group:
        assert variant.recipe is not None
        same.setdefault(Recipe.parse(variant.recipe).hash, []).append(variant)
    found = []
    for variants in same.values():
        first = variants[0]
        idle = [
            axis
            for axis in first.axes
            if len(levels[axis]) > 1 and {variant.axes[axis] for variant in variants} == levels[axis]
        ]
        whole = len(variants) == prod(len(levels[axis]) for axis in idle)
        axes = {axis: value for axis, value in first.axes.items() if not whole or axis not in idle}
        found.append(replace(first, axes=axes))
    return found


def _baselines(study: StudyFile) -> list[Variant]:
    wanted = [name for name in ("full", "random", "uniform_grid", "downsample") if name not in study.baselines.without]
    levels = budgets(study)
    found = [Variant("full", "full")] if "full" in wanted else []
    pruned = [name for name in wanted if name != "full"]
    if pruned and not levels:
        raise StudyError(
            [
                f"the baselines {', '.join(pruned)} need a budget, but the study has no axis 'budget' and no "
                f"recipe has one; add `axes: {{budget: [0.5, 0.25]}}` or name them in `baselines: {{without: [...]}}`"
            ]
        )
    for name, level in product(pruned, levels):
        axes = {BUDGET: text(level)}
        if name == "downsample":
            found += [Variant(name, "baseline", downsample=share, axes=axes) for share in _share(level)]
            continue
        try:
            recipe = Recipe.load(name, **{f"stages.0.{BUDGET}": level})
        except RecipeError as error:
            raise StudyError([f"baseline {name!r}: {problem}" for problem in error.problems]) from None
        for axis, one in seeded(recipe, study.seeds):
            found.append(Variant(name, "baseline", one.to_dict(), axes={**axes, **axis}))
    return found


def _share(level: Any) -> list[float]:
    """The share of the pixels that gives about as many tokens; none for a budget that is no share of the tokens."""
    budget = Budget.model_validate(level)
    return [budget.value] if budget.unit == "keep_ratio" and budget.value > 0 else []
