"""A factorial: every scorer with every selector and every allocator on one site, at each budget.

Attribution asks what each factor contributes, so the design is complete but for combinations that cannot exist; these
are refused, each with its reason. Cells share nothing with the baselines: a component with a seed gets the one after
the study's last, unless it was given one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from vtprune.core.errors import RecipeError
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build
from vtprune.study.cell import Variant
from vtprune.study.file import Factorial, StudyError, StudyFile
from vtprune.study.grid import BUDGET, SEED, budgets, text
from vtprune.study.names import FACTORIAL

FACTORS = ("scorer", "selector", "allocator")


@dataclass(frozen=True)
class Refusal:
    """Something a study asks for that cannot be run. model: where, or None for everywhere. expected: one of many
    combinations that nobody asked for by itself."""

    what: str
    reason: str
    model: str | None = None
    expected: bool = False


def factorial(study: StudyFile) -> tuple[list[Variant], list[Refusal]]:
    """The variants, with axes scorer, selector, allocator and budget, and the combinations that do not type-check.

    Raises StudyError if the study has no budget or a named component does not exist.
    """
    if study.factorial is None:
        return [], []
    levels = study.axes.get(BUDGET) or budgets(study)
    if not levels:
        raise StudyError(["factorial: there is no budget; add `axes: {budget: [0.5, 0.25]}`"], f"study {study.name!r}")
    refused: dict[tuple[str, str], Refusal] = {}
    factors, problems = [], []
    for kind in FACTORS:
        choices = []
        for spec in _candidates(study.factorial, kind):
            problem = _fault(kind, spec, asked := _is_asked(study.factorial, kind))
            if problem is None:
                choices.append(_with_seed(spec, kind, max(study.seeds) + 1))
            elif asked:
                problems.append(f"factorial.{kind}s: {problem}")
            else:
                refused[f"{kind} {text(spec)}", problem] = Refusal(f"{kind} {text(spec)}", problem, expected=True)
        factors.append(choices)
    if problems:
        raise StudyError(problems, f"study {study.name!r}")
    found = []
    for combination in product(*factors):
        stage = dict(zip(FACTORS, (spec for _, spec in combination), strict=True))
        axes = dict(zip(FACTORS, (name for name, _ in combination), strict=True))
        for level in levels:
            try:
                recipe = Recipe.parse(
                    {"name": FACTORIAL, "stages": [{"site": study.factorial.site, **stage, BUDGET: level}]}
                )
            except RecipeError as error:
                what, reason = (
                    " x ".join(axes.values()),
                    "; ".join(p.removeprefix("stages[0]: ") for p in error.problems),
                )
                refused[what, reason] = Refusal(what, reason, expected=True)
                continue
            found.append(Variant(FACTORIAL, "recipe", recipe.to_dict(), axes={**axes, BUDGET: text(level)}))
    return found, list(refused.values())


def _is_asked(plan: Factorial, kind: str) -> bool:
    return getattr(plan, f"{kind}s") != "all"


def _candidates(plan: Factorial, kind: str) -> list[Any]:
    if _is_asked(plan, kind):
        return [None if spec == "none" else spec for spec in getattr(plan, f"{kind}s")]
    return [*registry().names(kind), *([None] if kind == "scorer" else [])]


def _fault(kind: str, spec: Any, asked: bool) -> str | None:
    """Why a component cannot be a level of its factor, or None."""
    if spec is None:
        return None if kind == "scorer" else f"a stage always has its {kind}"
    try:
        component = build(kind, spec)
    except ValueError as error:
        return str(error).replace("\n", "; ")
    if not asked and any(need.kind == "annotation" for need in component.needs()):
        return "it needs a task that says where answers are, and is no method; name it to have it"
    return None


def _with_seed(spec: Any, kind: str, seed: int) -> tuple[str, Any]:
    """The name of a level, and the component's data with its seed set unless it was given."""
    if spec is None or (isinstance(spec, Mapping) and SEED in spec):
        return str(text(spec)), spec
    has_seed = SEED in type(build(kind, spec)).model_fields
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    return str(text(spec)), {**given, **({SEED: seed} if has_seed else {})}
