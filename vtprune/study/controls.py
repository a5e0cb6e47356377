"""Controls: a recipe with one thing changed, to see whether that thing is what works.

Pure functions on plain recipe data (`Recipe.to_dict`). Each keeps the sites, the budgets and the allocators, so that a
control has as many tokens at the same places as its recipe.

random    random scores and the plain top k: does the choice matter at all?
inverted  every scorer's order reversed: is it the score that matters, and in this direction?
oracle    scores that know where the answer is: what would better scores be worth? Needs a task with regions.
repacked  the kept tokens numbered anew: do their original positions matter?
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from vtprune.core.component import Selector
from vtprune.core.errors import RecipeError, VtpruneError, did_you_mean
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build

Data = dict[str, Any]


class ControlError(VtpruneError):
    """A control that a recipe cannot have."""


def control(recipe: Mapping[str, Any], kind: str) -> Data:
    """A control of a recipe, normalised; raises ControlError with the reason if it cannot have this one."""
    if kind not in MAKERS:
        raise ControlError(f"unknown control {kind!r}.{did_you_mean(kind, MAKERS)}")
    made = MAKERS[kind](copy.deepcopy(dict(recipe)))
    try:
        return Recipe.parse(made, f"control {kind!r} of {recipe.get('name')!r}").to_dict()
    except RecipeError as error:
        raise ControlError(str(error)) from error


def _random(recipe: Data) -> Data:
    for place, stage in enumerate(recipe["stages"]):
        _require_exact_count(stage, place, "random")
        stage["scorer"] = {"name": "random", "seed": 0}
        stage["selector"] = {"name": "top_k"}
    return recipe


def _inverted(recipe: Data) -> Data:
    if all(stage["scorer"] is None for stage in recipe["stages"]):
        raise ControlError(
            f"control 'inverted': recipe {recipe.get('name')!r} has no scorer whose order could be reversed"
        )
    for place, stage in enumerate(recipe["stages"]):
        if stage["scorer"] is not None:
            _require_exact_count(stage, place, "inverted")
            stage["scorer"] = {"name": "negate", "scorer": stage["scorer"]}
    return recipe


def _oracle(recipe: Data) -> Data:
    for place, stage in enumerate(recipe["stages"]):
        if not _require_exact_count(stage, place, "oracle").uses_scores:
            stage["selector"] = {"name": "top_k"}
        stage["scorer"] = {"name": "oracle"}
    return recipe


def _repacked(recipe: Data) -> Data:
    cached = [str(stage["site"]) for stage in recipe["stages"] if str(stage["site"]).endswith(".kv")]
    if cached:
        raise ControlError(
            f"control 'repacked': {cached[0]} evicts from the cache, whose keys are rotated to their positions "
            f"already; only recipes that drop tokens can be repacked"
        )
    if all(stage["positions"] == "reindex" for stage in recipe["stages"]):
        raise ControlError(f"control 'repacked': recipe {recipe.get('name')!r} has positions: reindex already")
    for stage in recipe["stages"]:
        stage["positions"] = "reindex"
    return recipe


def _require_exact_count(stage: Data, place: int, kind: str) -> Selector:
    selector = build("selector", stage["selector"])
    assert isinstance(selector, Selector)
    if not selector.count_is_exact:
        raise ControlError(
            f"control {kind!r}: selector {stage['selector']['name']!r} of stages[{place}] finds its own count from the "
            f"scores, so with other scores it would keep another number of tokens; choose a selector that keeps the "
            f"budget exactly, such as top_k"
        )
    return selector


MAKERS: dict[str, Callable[[Data], Data]] = {
    "random": _random,
    "inverted": _inverted,
    "oracle": _oracle,
    "repacked": _repacked,
}
