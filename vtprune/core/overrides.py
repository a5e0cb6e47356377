"""Overrides: change a recipe by dotted paths, e.g. ``stages.0.budget=0.25`` or ``stages.0.scorer.query=text``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from vtprune.core.errors import RecipeError, did_you_mean
from vtprune.core.registry import STAGE_KINDS

RECIPE_FIELDS = ("schema_version", "name", "paper", "description", "replace", "stages")
STAGE_FIELDS = (
    "site",
    *STAGE_KINDS,
    "positions",
    "budget",
    "scope",
    "protect",
)


def read_assignment(text: str) -> tuple[str, Any]:
    """``"stages.0.budget=0.25"`` to ``("stages.0.budget", 0.25)``; the value is read as YAML.

    Raises RecipeError if there is no ``=``, no path, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RecipeError([f"override {text!r} must look like PATH=VALUE, e.g. stages.0.budget=0.25"], "override")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError([f"the value of override {text!r} is not YAML: {error}"], "override") from None


def apply_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy of ``data`` with every path set. ``__`` may stand for a dot, so that paths can be keyword arguments.

    A path that starts with a field of a stage (``budget=0.5``) means the recipe's only stage. Raises RecipeError naming
    every path that leads nowhere.
    """
    result = copy.deepcopy(dict(data))
    problems: list[str] = []
    for path, value in overrides.items():
        try:
            _set(result, _steps(path, result), value)
        except ValueError as error:
            problems.append(f"override {path!r}: {error}")
    if problems:
        raise RecipeError(problems, source)
    return result


def _steps(path: str, data: Mapping[str, Any]) -> list[str]:
    steps = path.replace("__", ".").split(".")
    if steps[0] in STAGE_FIELDS:
        stages = data.get("stages")
        count = len(stages) if isinstance(stages, list | tuple) else 0
        if count != 1:
            raise ValueError(f"the recipe has {count} stages; say which one, e.g. stages.0.{'.'.join(steps)}")
        return ["stages", "0", *steps]
    if steps[0] not in RECIPE_FIELDS and steps[0] not in data:
        hint = did_you_mean(steps[0], (*RECIPE_FIELDS, *STAGE_FIELDS))
        raise ValueError(f"unknown field {steps[0]!r}.{hint}")
    return steps


def _set(node: Any, steps: list[str], value: Any) -> None:
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        here = ".".join(steps[:depth]) or "the recipe"
        if isinstance(node, list):
            if not step.lstrip("-").isdigit() or not -len(node) <= int(step) < len(node):
                last_index = len(node) - 1
                raise ValueError(f"{here} has {len(node)} entries, so {step!r} is no index of it (0 to {last_index})")
            key: Any = int(step)
        elif isinstance(node, dict):
            key = next((known for known in node if str(known) == step), step)
            if not last and key not in node:
                raise ValueError(f"{here} has no {step!r}.{did_you_mean(step, map(str, node))}")
        else:
            raise ValueError(f"{here} is {node!r} and has no {step!r} inside")
        if last:
            node[key] = value
            return
        if isinstance(node[key], tuple):
            node[key] = list(node[key])
        if isinstance(node[key], str) and steps[depth] in STAGE_KINDS:
            node[key] = {"name": node[key]}
        node = node[key]
