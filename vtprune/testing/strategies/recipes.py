"""Recipes: sites, registered components, stages, and whole recipes, also ones that fit a given model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from vtprune.core.budget import UNITS, Budget
from vtprune.core.component import Allocator, Component, Reducer, Scorer, Selector
from vtprune.core.errors import BindingError, BudgetError, ComponentError, RecipeError
from vtprune.core.plugins import GROUP, registry
from vtprune.core.recipe import Recipe, Stage
from vtprune.core.site import Site
from vtprune.testing.strategies.budgets import budgets

SITES: tuple[str, ...] = ("tower", "vision", "projector", "llm", "kv")
"""Kinds of sites."""
TOWER_UNITS = ("keep_ratio", "keep_tokens")
"""Of budgets inside the tower, where the prompt is not known yet."""


@st.composite
def sites(draw: st.DrawFn, *, kinds: Sequence[str] = SITES, depth: int = 4) -> Site:
    """A site: a whole output, one layer (also counted from the end), a slice with or without ends and step, or a list.

    kinds: of ``tower``, ``vision``, ``projector``, ``llm`` and ``kv``. depth: layers of the model; indices stay inside.
    """
    kind = draw(st.sampled_from(kinds))
    if kind in ("vision", "projector"):
        return Site.parse(f"{kind}.output")
    index = draw(st.one_of(st.integers(0, depth - 1).map(str), _negative(depth), _lists(depth), _slices(depth)))
    owner = "vision" if kind == "tower" else "llm"
    return Site.parse(f"{owner}.layers[{index}]" + (".kv" if kind == "kv" else ""))


def _negative(depth: int) -> st.SearchStrategy[str]:
    return st.integers(-depth, -1).map(str)


def _lists(depth: int) -> st.SearchStrategy[str]:
    layers = st.lists(st.integers(-depth, depth - 1), min_size=2, max_size=4)
    return layers.map(lambda found: ",".join(map(str, found)))


@st.composite
def _slices(draw: st.DrawFn, depth: int) -> str:
    """A slice that names at least one layer."""
    start = draw(st.none() | st.integers(0, depth - 1))
    stop = draw(st.none() | st.integers((start or 0) + 1, depth))
    step = draw(st.none() | st.integers(1, depth))
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    return text if step is None else f"{text}:{step}"


def components(kind: str, names: Sequence[str] | None = None) -> st.SearchStrategy[Any]:
    """The `examples` of registered scorers, allocators, selectors or reducers (``kind``).

    names: which of them; None: the built-in ones. Raises UnknownNameError for a name that nothing has.
    """
    own = [entry.name for entry in registry().entries(kind) if entry.origin == GROUP] if names is None else names
    found: list[Component] = [example for name in own for example in registry().load(kind, name).examples()]
    return st.sampled_from(found)


@st.composite
def stages(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] = SITES,
    depth: int = 4,
    scorers: Sequence[str] | None = None,
    allocators: Sequence[str] | None = None,
    selectors: Sequence[str] | None = None,
    reducers: Sequence[str] | None = None,
) -> Stage:
    """A valid stage: its parts fit each other. Whether it fits a model is another matter: see `recipes`.

    kinds, depth: as of `sites`. The others: registered names to choose from; None: the built-in ones.
    """
    site = draw(sites(kinds=kinds, depth=depth))
    place = "kv" if site.kind == "kv" else "hidden"
    selector: Selector = draw(components("selector", selectors))
    reducer: Reducer = draw(components("reducer", reducers).filter(lambda found: place in found.sites))
    allocator: Allocator = draw(components("allocator", allocators))
    scorer: Scorer | None = None
    if selector.uses_scores:
        fits = components("scorer", scorers).filter(lambda found: place == "kv" or found.granularity == "token")
        scorer = draw(fits)
    units = TOWER_UNITS if site.is_tower else UNITS
    problem = allocator.budget_problem
    budget: Budget | None = draw((st.none() | budgets(units)).filter(lambda found: problem(found) is None))
    try:
        return Stage(
            site=site,
            scorer=scorer,
            allocator=allocator,
            selector=selector,
            reducer=reducer,
            budget=budget,
            positions=draw(st.sampled_from(("retain",) if place == "kv" else ("retain", "reindex"))),
            scope=draw(st.sampled_from(("joint",) if site.is_tower else ("joint", "image"))),
            protect=tuple(draw(st.lists(st.integers(-3, 3), max_size=2, unique=True))),
        )
    except (ValueError, ComponentError):  # what parts of third parties refuse in each other's company
        assume(False)
        raise


@st.composite
def recipes(draw: st.DrawFn, *, model: Any = None, most: int = 3, **options: Any) -> Recipe:
    """A valid recipe of one to ``most`` stages; it survives the way to YAML and back.

    model: a recipe that can be bound to this model, so that ``vtprune.prune(model, recipe)`` succeeds (its budgets may
    still turn out to be out of reach when the model runs). options: of `stages`.
    """
    if model is not None and "depth" not in options:
        options["depth"] = len(model.get_decoder().layers)
    found = draw(st.lists(stages(**options), min_size=1, max_size=most))
    name = draw(st.sampled_from(("inline", "a recipe", "größer: #1")))
    try:
        recipe = Recipe(name=name, description=draw(st.none() | st.text(max_size=8)), stages=tuple(found))
        if model is not None:
            from vtprune.core.engine.plan import bind

            bind(recipe, model)
    except (RecipeError, BindingError, BudgetError, ValueError):
        assume(False)
        raise
    return recipe
