"""Recipes: frozen, validated, hashable lists of stages; YAML on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from vtprune.core import substitution
from vtprune.core.budget import Budget
from vtprune.core.errors import PluginError, RecipeError, UnknownNameError, did_you_mean
from vtprune.core.overrides import apply_overrides
from vtprune.core.plugins import registry
from vtprune.core.registry import STAGE_KINDS
from vtprune.core.site import Site
from vtprune.core.spec import AllocatorSpec, ReducerSpec, ScorerSpec, SelectorSpec, build, located, plain, sentences

SCHEMA: Literal[1] = 1


class Stage(BaseModel):
    """One pruning step: where, what is worth keeping, how much, which ones, and what becomes of the rest.

    site: see `vtprune.core.site`.
    scorer: required unless the selector works on features alone.
    allocator, selector, reducer: default to ``uniform``, ``top_k`` and, by site, ``drop`` or ``evict_kv``.
    positions: ``retain`` keeps the original positions of what is kept; ``reindex`` renumbers the survivors.
    At a site inside the vision tower, every image (or crop, or video) decides for itself: budgets and protected tokens
    are counted per image.
    budget: see `Budget`; optional for allocators and selectors that find their own count.
    scope: ``joint`` ranks all vision tokens of a sample together; ``image`` gives each image its own share and ranks
        inside it.
    protect: vision tokens (counted in the prompt, negative from the end) that are kept whatever the scores are. The
        last token of a prompt that ends in an image is always kept where tokens are dropped: the answer starts from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Site
    scorer: ScorerSpec | None = None
    allocator: AllocatorSpec = Field(default_factory=lambda: build("allocator", "uniform"), validate_default=True)
    selector: SelectorSpec = Field(default_factory=lambda: build("selector", "top_k"), validate_default=True)
    reducer: ReducerSpec | None = None
    positions: Literal["retain", "reindex"] = "retain"
    budget: Budget | None = None
    scope: Literal["joint", "image"] = "joint"
    protect: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _default_reducer(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("reducer") is None and isinstance(data.get("site"), str | Site):
            kv = str(data["site"]).replace(" ", "").endswith(".kv")
            return {**data, "reducer": "evict_kv" if kv else "drop"}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Stage:
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> list[str]:
        found = []
        name = {kind: build_name(kind, getattr(self, kind)) for kind in STAGE_KINDS}
        if self.scorer is None and self.selector.uses_scores:
            found.append(f"selector {name['selector']!r} ranks by score, so the stage needs a scorer")
        if self.scorer is not None and not self.selector.uses_scores:
            found.append(
                f"selector {name['selector']!r} ignores scores, so scorer {name['scorer']!r} would have no effect; "
                f"remove it or choose a selector that uses scores"
            )
        if self.scorer is not None and self.scorer.granularity == "head" and self.site.kind != "kv":
            found.append(
                f"scorer {name['scorer']!r} gives a score per head, but {self.site} drops whole tokens; reduce over "
                f"heads (e.g. head_reduction: mean) or use a .kv site"
            )
        if self.selector.needs_count or self.budget is not None or name["allocator"] != "uniform":
            problem = self.allocator.budget_problem(self.budget)
            if problem:
                found.append(f"allocator {name['allocator']!r}: {problem}")
        assert self.reducer is not None
        if self.site.is_tower:
            found.extend(self._tower_problems())
        place = "kv" if self.site.kind == "kv" else "hidden"
        if place not in self.reducer.sites:
            fitting = "evict_kv" if place == "kv" else "drop, merge"
            found.append(f"reducer {name['reducer']!r} cannot serve {self.site}; use {fitting}")
        elif place == "kv" and self.reducer.merges:
            found.append(
                f"reducer {name['reducer']!r} merges, but at a .kv site nothing is merged; use evict_kv, and take 'kv' "
                f"out of its `sites`"
            )
        if place == "kv" and self.positions == "reindex":
            found.append("positions: reindex is not possible at a .kv site, whose keys are already rotated")
        return found

    def _tower_problems(self) -> list[str]:
        """What makes no sense while the vision tower runs, where an image is known but neither prompt nor sample."""
        found = []
        if self.budget is not None and self.budget.unit not in ("keep_tokens", "keep_ratio"):
            found.append(
                f"budget {self.budget} cannot be resolved at {self.site}: the vision tower runs before the prompt is "
                f"known, and each image decides for itself; use keep_ratio or keep_tokens (per image), or a later site"
            )
        if self.scope == "image":
            found.append(f"scope: image has no effect at {self.site}: every image decides for itself; leave it out")
        return found


def build_name(kind: str, component: Any) -> str:
    """The registered name of a component instance, or its class name if it has none."""
    if component is None:
        return "none"
    try:
        return registry().name_of(kind, type(component))
    except UnknownNameError:
        return type(component).__name__


class Recipe(BaseModel):
    """A pruning method as data.

    Load one with `Recipe.load`, or validate a dict with `Recipe.parse`. ``hash`` covers what acts (schema, stages and
    the choice of an adapter), not the name or the prose.

    replace: names to take in place of others, ``{old: new}``: components, wherever they stand in the stages, and
        adapters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA
    name: str = "inline"
    paper: str | None = None
    description: str | None = None
    replace: dict[str, str] = Field(default_factory=dict)
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="wrap")
    @classmethod
    def _replace(cls, data: Any, read: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        """Read the stages with the names of ``replace``."""
        names = data.get("replace") if isinstance(data, Mapping) else None
        if not names or not isinstance(names, Mapping) or not all(isinstance(new, str) for new in names.values()):
            return read(data)
        with substitution.substituting(names) as used:
            recipe = read(data)
        met = used.used | substitution.names_in(plain(recipe)["stages"])
        if found := list(substitution.problems(names, met)):
            raise ValueError("\n".join(found))
        return recipe

    @classmethod
    def parse(cls, data: Any, source: str = "recipe", /, **overrides: Any) -> Recipe:
        """Validate plain data; raises RecipeError naming every problem. ``overrides`` as in `vtprune.prune`."""
        if not isinstance(data, Mapping):
            raise RecipeError([f"a recipe is a mapping with 'stages', got {type(data).__name__}"], source)
        if overrides:
            data = apply_overrides(data, overrides, source)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RecipeError(_problems(error), source) from None

    @classmethod
    def load(cls, recipe: str | Path | Mapping[str, Any] | Recipe, /, **overrides: Any) -> Recipe:
        """A recipe from a registered name, a YAML file, a mapping, or a recipe; overrides applied.

        Raises RecipeError (every problem at once) or UnknownNameError (with the nearest names).
        """
        if isinstance(recipe, Recipe):
            return cls.parse(recipe.to_dict(), recipe.name, **overrides) if overrides else recipe
        if isinstance(recipe, Mapping):
            return cls.parse(recipe, "recipe", **overrides)
        return cls.parse(read(recipe), str(recipe), **overrides)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data with every default filled in; `Recipe.parse` gives an equal recipe back.

        Raises UnknownNameError if a component's class is not registered.
        """
        return plain(self)

    def to_yaml(self) -> str:
        """The recipe as YAML; loading it gives an equal recipe."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @property
    def hash(self) -> str:
        """sha256 (hex) of what acts: the schema's version, the normalised stages, and the adapters that ``replace``
        names. Equal for recipes that do the same; name, description and the like do not count."""
        acting = {key: value for key, value in self.to_dict().items() if key in ("schema_version", "stages")}
        if chosen := substitution.adapters(self.replace):
            acting["adapters"] = chosen
        return hashlib.sha256(json.dumps(acting, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(recipe: str | Path) -> Any:
    """A registered recipe or a YAML file as data, not validated; raises as `Recipe.load` does."""
    path = Path(recipe)
    if recipe in registry().names("recipe"):
        text, source = _registered(str(recipe))
    elif os.path.isfile(path):
        text, source = path.read_text(encoding="utf-8"), str(path)
    elif isinstance(recipe, Path) or path.suffix in (".yaml", ".yml") or "\\" in recipe:
        raise RecipeError([f"no such file; the current directory is {Path.cwd()}"], str(path))
    else:
        unknown = registry().explain("recipe", recipe) + did_you_mean(recipe, registry().names("recipe"))
        raise UnknownNameError(f"unknown recipe {recipe!r}.{unknown} A path to a YAML file works too.")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError([f"not valid YAML: {error}"], source) from None


def _registered(name: str) -> tuple[str, str]:
    """The text of a registered recipe and where it came from."""
    entry = registry().entry("recipe", name)
    package, _, file = entry.target.partition(":")
    try:
        return files(package).joinpath(file).read_text(encoding="utf-8"), entry.target
    except (ImportError, OSError, TypeError, ValueError) as error:  # TypeError: no package; ValueError: no UTF-8
        raise PluginError(
            f"recipe {name!r} of {entry.origin} {entry.version} cannot be read from {entry.target}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _problems(error: ValidationError) -> list[str]:
    """Pydantic's faults as sentences that start with the place in the recipe."""

    def owner(place: Sequence[int | str]) -> type[BaseModel]:
        return Recipe if not place else Stage if len(place) == 2 else Budget

    return [f"{place}: {text}" if place else text for place, text in located(error, "the recipe", owner)]


__all__ = ["SCHEMA", "Recipe", "Stage", "sentences"]
