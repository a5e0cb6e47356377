"""Scenes: a component in a recipe of one stage, on a tiny model, at a site that has what it needs.

Where it is put follows from what it declares: a scorer per head at a ``.kv`` site, a reducer where it serves, and
everything only where binding accepts it. Its partners are built-ins with few needs.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from types import new_class
from typing import Any

import torch
from torch import Tensor

from vtprune.api import Run, prune
from vtprune.core.component import Component, Selector
from vtprune.core.engine.plan import bind
from vtprune.core.errors import BindingError, BudgetError, ComponentError, RecipeError
from vtprune.core.layout import SampleLayout
from vtprune.core.recipe import Recipe
from vtprune.testing.models import Inputs, Tiny, forget_dialogues, tiny_llava, tiny_qwen2_5_vl
from vtprune.testing.restoration import contained

MODELS = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl}
DEPTH = 4
HALF: tuple[Any, ...] = (
    {"keep_ratio": 0.5},
    None,
    {"mean_tokens_over_layers": 6},
    {"kv_bytes_ratio": 0.6},
    {"flops_ratio": 0.7},
    {"keep_tokens": 5},
)
"""Budgets that remove something, the likely one first."""
ALL: Mapping[str, Any] = {"keep_ratio": 1.0, "kv_bytes_ratio": 1.0, "flops_ratio": 1.0}
"""For each unit the budget that keeps everything, where there is one for any prompt."""
_CHOSEN = [
    ",".join(map(str, layers)) for count in (1, 2, 3, 4) for layers in combinations(range(DEPTH), count) if any(layers)
]
HIDDEN = (
    "llm.layers[1]",
    "projector.output",
    "vision.output",
    "vision.layers[1]",
    "llm.layers[1:]",
    *(f"llm.layers[{chosen}]" for chosen in _CHOSEN),
)
KV = ("llm.layers[1:].kv", "llm.layers[2].kv", *(f"llm.layers[{chosen}].kv" for chosen in (*_CHOSEN, "0", "0,1,2,3")))


@dataclass(frozen=True)
class Scene:
    """A component at a site of a tiny model. stage: what the recipe's one stage holds."""

    tiny: Tiny
    stage: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.tiny.name}, {self.stage['site']}"

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe, with some fields of its stage changed; raises RecipeError."""
        return Recipe.parse({"name": "scene", "stages": [{**self.stage, **changes}]}, str(self))

    def holding(self, kind: str, component: Component) -> Scene:
        """The same scene with another component of that kind."""
        return replace(self, stage={**self.stage, kind: component})

    def bind(self, model: Any = None, **changes: Any) -> Run:
        """The recipe bound to the scene's model, or to a copy of it; raises BindingError."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = prune(self.tiny.model if model is None else model, self.recipe(**changes))
        run.annotate(annotation)
        return run


def annotation(sample: int, layout: SampleLayout) -> Tensor:
    """What is said of each vision token, ``[vision]``: the same for equal layouts, wherever they stand in a batch."""
    return torch.sin(torch.arange(layout.vision) * 2.3)


class NoScene(Exception):
    """No site of the tiny models fits a component; ``reasons`` says of each why not."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{where}: {reason}" for where, reason in self.reasons.items()))


def stages_of(component: Component) -> Iterator[dict[str, Any]]:
    """Stages that the component could stand in, at every site and with every budget that the recipe accepts."""
    for site in (*HIDDEN, *KV):
        for budget in HALF:
            stage: dict[str, Any] = {"site": site, component.kind: component, "budget": budget}
            if component.kind != "scorer" and not (isinstance(component, Selector) and not component.uses_scores):
                stage["scorer"] = "random"
            try:
                Recipe.parse({"stages": [stage]})
            except RecipeError:
                continue
            yield stage
            break


def fitting(component: Component) -> Iterator[Scene]:
    """Scenes that can be bound, in order, model by model; nothing is run."""
    for make in MODELS.values():
        for stage in stages_of(component):
            scene = Scene(make(), stage)
            if _unbound(scene) is None:
                yield scene


def scenes_of(component: Component) -> tuple[Scene, ...]:
    """The first scene that runs, on each model, of those that drop tokens and of those that evict from the cache.

    Raises NoScene if there is none.
    """
    if _latest and _latest[0][0] is component:
        return _latest[0][1]
    found: list[Scene] = []
    reasons: dict[str, str] = {}
    for model, make in MODELS.items():
        done: set[bool] = set()
        for stage in stages_of(component):
            scene, is_kv = Scene(make(), stage), stage["site"].endswith(".kv")
            if is_kv in done:
                continue
            if (reason := _unbound(scene) or _misfit(scene)) is None:
                done.add(is_kv)
                found.append(scene)
            elif stage["site"] in (*HIDDEN[:5], *KV[:2]):
                reasons[f"{model}, {stage['site']}"] = reason
    if not found:
        raise NoScene(reasons or {"every site": "no recipe with this component is valid"})
    _latest[:] = [(component, tuple(found))]
    return _latest[0][1]


_latest: list[tuple[Component, tuple[Scene, ...]]] = []


def _unbound(scene: Scene) -> str | None:
    """Why a scene cannot be bound, or None."""
    try:
        bind(scene.recipe(), scene.tiny.model)
    except BindingError as error:
        return error.problems[0].removeprefix("stages[0]: ")
    return None


def _misfit(scene: Scene) -> str | None:
    """Why a budget or a table does not fit the layers of a scene that was bound, or None."""
    try:
        with contained(), scene.bind() as run:
            forward(run.model, scene.tiny.make_inputs((1,)))
    except BudgetError as error:
        return str(error)
    except ComponentError as error:
        return str(error) if "layer" in str(error) or _is_refusal(error) else None
    except Exception:
        return None  # the checks that run it say so
    return None


def _is_refusal(error: ComponentError) -> bool:
    """Whether the component itself says that it cannot serve here; the engine's complaints about it are faults."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not str(frames[-1].f_globals.get("__name__", "")).startswith("vtprune.core.")


@torch.no_grad()
def forward(model: Any, inputs: Inputs, **options: Any) -> Any:
    """One call of a model."""
    forget_dialogues()
    return model(**inputs, **options)


@torch.no_grad()
def generate(model: Any, inputs: Inputs, steps: int = 2) -> Any:
    """Greedy generation: the output of ``generate`` with its logits and its cache."""
    forget_dialogues()
    return model.generate(
        **inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True
    )


def failing(component: Component) -> Component:
    """A component like this one, whose method raises PlannedError once it has done its work."""
    method = {"scorer": "score", "allocator": "allocate", "selector": "select", "reducer": "merge"}[component.kind]
    base = type(component)

    def raises(self: Any, *arguments: Any) -> Any:
        getattr(base, method)(self, *arguments)
        raise PlannedError

    space = {method: raises, "__module__": base.__module__, "__doc__": base.__doc__}
    made = new_class(base.__name__, (base,), {}, lambda body: body.update(space))
    twin: Component = made(**{name: getattr(component, name) for name in base.model_fields})
    return twin


class PlannedError(RuntimeError):
    """Raised on purpose inside a component."""
