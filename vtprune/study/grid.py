"""From a study to its variants: recipes x axes x seeds, the baselines, and the controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from vtprune.core.budget import Budget
from vtprune.core.errors import RecipeError
from vtprune.core.recipe import Recipe
from vtprune.study.cell import Variant
from vtprune.study.controls import ControlError, control
from vtprune.study.crossing import BUDGET, NOTHING_TO_SET, Axes, Crossing, Fault, cross, text, unknown_axis
from vtprune.study.file import BASELINES, RecipeEntry, StudyError, StudyFile

SEED = "seed"
__all__ = ["BUDGET", "SEED", "budgets", "misfits", "seeded", "text", "variants"]


def variants(study: StudyFile) -> list[Variant]:
    """Every variant but those of the factorial: baselines, then each recipe with its controls; names are unique.

    Recipes that come out equal under one label are planned once, with the axes of the first. Raises StudyError naming
    every recipe, axis and control that does not fit.
    """
    recipes, crossings, problems = _recipes(study)
    baselines: list[Variant] = []
    if not problems:
        try:
            baselines = _baselines(study, _budgets(study, crossings))
        except StudyError as error:
            problems += error.problems
    if problems:
        raise StudyError(problems, f"study {study.name!r}")
    return [*baselines, *recipes]


def misfits(study: StudyFile, controls: bool = False) -> list[str]:
    """Every axis, recipe and (if asked for) control of it that does not fit, in words."""
    return _recipes(study)[2] if controls else _misfits(study, [_cross(study, entry) for entry in study.recipes])


def _recipes(study: StudyFile) -> tuple[list[Variant], list[Crossing], list[str]]:
    crossings = [_cross(study, entry) for entry in study.recipes]
    problems = _misfits(study, crossings)
    recipes: list[Variant] = []
    for entry, crossing in zip(study.recipes, crossings, strict=True):
        try:
            recipes += _entry(study, entry, crossing)
        except StudyError as error:
            problems += error.problems
    return recipes, crossings, problems


def _misfits(study: StudyFile, crossings: Sequence[Crossing]) -> list[str]:
    problems = [f"axes: {said}" for path in study.axes if (said := unknown_axis(path))]
    for entry in study.recipes:
        own = [said for path in entry.axes or {} if (said := unknown_axis(path))]
        problems += [f"recipe {entry.label!r}: axes: {said}" for said in own]
    return [*problems, *_sentences(study, [fault for crossing in crossings for fault in crossing.faults])]


def budgets(study: StudyFile) -> list[Any]:
    """The levels of the budget: of the study's axis and the recipes' own, and what recipes of one stage have without an
    axis for it; without any axis, all budgets in the recipes."""
    return _budgets(study, [_cross(study, entry) for entry in study.recipes])


def _budgets(study: StudyFile, crossings: Sequence[Crossing]) -> list[Any]:
    grids = [study.axes, *(entry.axes or {} for entry in study.recipes)]
    levels = [level for axes in grids for path in axes if _last(path) == BUDGET for level in axes[path]]
    varied = bool(levels)
    for entry, crossing in zip(study.recipes, crossings, strict=True):
        axes = _axes(study, entry)
        levels += [level for _, recipe in crossing.recipes for level in _fixed_budget(recipe, axes).values()]
    if not varied:
        made = [recipe for crossing in crossings for _, recipe in crossing.recipes]
        stages = [stage for recipe in made for stage in recipe.stages]
        levels += [_short_budget(stage.budget) for stage in stages if stage.budget is not None]
    return [level for place, level in enumerate(levels) if level not in levels[:place]]


def _axes(study: StudyFile, entry: RecipeEntry) -> Axes:
    return study.axes if entry.axes is None else entry.axes


def _cross(study: StudyFile, entry: RecipeEntry) -> Crossing:
    return cross(entry, _axes(study, entry), shared=entry.axes is None)


def _sentences(study: StudyFile, faults: Sequence[Fault]) -> list[str]:
    """Each fault once, with the recipes it concerns; what only some recipes cannot have with what to do about it."""
    sharing = {entry.label for entry in study.recipes if entry.axes is None}
    of: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        of.setdefault((fault.where, fault.text), []).append(fault)
    found = []
    for (where, what), same in of.items():
        labels = list(dict.fromkeys(fault.label for fault in same))
        some = any(fault.shared for fault in same) and (what == NOTHING_TO_SET or not sharing <= set(labels))
        said = f"{_named(labels)}{where and f' {where}'}: {what}"
        advice = "what fits only some recipes goes into `axes` of those recipes alone"
        found.append(f"{said.rstrip('.')}; {advice}" if where and some else said)
    return found


def _named(labels: Sequence[str]) -> str:
    return f"recipe{'s' if len(labels) > 1 else ''} {', '.join(map(repr, labels))}"


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _short_budget(budget: Budget) -> Any:
    return budget.value if budget.unit == "keep_ratio" else budget.model_dump()


def _fixed_budget(recipe: Recipe, axes: Iterable[str]) -> dict[str, Any]:
    """The axis ``budget`` of a recipe of one stage whose budget no axis sets; empty for others."""
    stage, *more = recipe.stages
    if more or stage.budget is None or any(_last(path) == BUDGET for path in axes):
        return {}
    return {BUDGET: _short_budget(stage.budget)}


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


def _entry(study: StudyFile, entry: RecipeEntry, crossing: Crossing) -> list[Variant]:
    """A recipe over its axes and seeds, then its controls over the same."""
    axes = _axes(study, entry)
    own_seeds = any(_last(path) == SEED for path in (*axes, *entry.set))
    seeds = () if own_seeds else study.seeds
    recipes: list[Variant] = []
    controls: dict[str, list[Variant]] = {kind: [] for kind in entry.controls}
    problems: list[str] = []
    for point, recipe in crossing.recipes:
        shown = {path: text(value) for path, value in point.items()}
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
        raise StudyError(list(dict.fromkeys(problems)))
    return [*_once(recipes), *(variant for group in controls.values() for variant in _controls_once(group))]


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


def _baselines(study: StudyFile, levels: Sequence[Any]) -> list[Variant]:
    wanted = [name for name in BASELINES if name not in study.baselines.without]
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
