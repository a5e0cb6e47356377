"""A component in a tiny model: it binds where it can, and what it decides is what happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.core.component import COMPONENT_KINDS, Allocator, Component, Reducer, Selector
from vtprune.core.errors import BindingError
from vtprune.core.recipe import Recipe
from vtprune.core.report import Report
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.common import not_registered
from vtprune.testing.scenes import ALL, NoScene, Scene, fitting, forward, generate, scenes_of, stages_of
from vtprune.verify.compare import TOLERANCE

KINDS = tuple(COMPONENT_KINDS)
STEPS = 4
"""Tokens generated: the one that the prompt gives, and three decoding steps."""


def scenes(component: Component) -> Sequence[Scene]:
    """Where a component can stand; none is left to `check_binds_somewhere` to complain about."""
    try:
        return scenes_of(component)
    except NoScene:
        return ()


def no_scene(component: Component) -> str | None:
    """Why a check in a model does not concern a component."""
    if next(fitting(component), None) is None:
        return "no site of the tiny models fits it: see the check binds_somewhere"
    return None


def merges(component: Component) -> str | None:
    """Why removal cannot be compared with masking for a component."""
    if isinstance(component, Reducer) and component.merges:
        return "it gives kept tokens new features, so its result is not that of hiding the others"
    return no_scene(component)


def budgets_that_keep_all(component: Component) -> str | None:
    """Why keeping everything cannot be asked for."""
    if isinstance(component, Selector) and not component.count_is_exact:
        return "it may keep fewer tokens than it is allowed to"
    if reason := no_scene(component):
        return reason
    if next(fitting(component)).stage["budget"] is None:
        return "it takes no budget, so it cannot be asked to keep everything"
    return None


def _keeping_all(scene: Scene) -> Any:
    """The scene's budget in its own unit, for every token of a sample with one image; None if it has no budget."""
    unit = next(iter(scene.stage["budget"] or ()), None)
    if unit is None or unit in ALL:
        return unit and {unit: ALL[unit]}
    with scene.bind() as run:
        forward(run.model, scene.tiny.make_inputs((1,)))
    return {unit: run.report.layouts[0].vision}


@check(*KINDS, slow=True)
def check_binds_somewhere(component: Component) -> None:
    """Some site of the tiny LLaVA or the tiny Qwen2.5-VL has what the component needs, and can be pruned with it."""
    try:
        scenes_of(component)
    except NoScene as error:
        needs = ", ".join(sorted(map(str, component.needs()))) or "nothing"
        where = "".join(f"\n    {place}: {reason}" for place, reason in error.reasons.items())
        fail(
            f"no site of the tiny models fits it (it needs {needs}):{where}",
            "needs that no site has together, or parameters for a deeper model; give examples() that fit, or declare "
            "this check in expected_failures and test with a model of your own",
        )


LANGUAGE = frozenset({"attention", "keys", "values", "queries"})
LACKING = {
    "projector.output": LANGUAGE,
    "vision.output": LANGUAGE | {"text"},
    "vision.layers[1]": LANGUAGE | {"text", "annotation"},
}
"""Signals that a site cannot have in any model."""


def lacks_nothing(component: Component) -> str | None:
    """Why there is no site where something is missing."""
    if not any(need.kind in LACKING[stage["site"]] for stage in _before(component) for need in component.needs()):
        return "every site has all that it needs"
    return no_scene(component)


def _before(component: Component) -> list[dict[str, Any]]:
    """Stages before the language model, which lack some signals, as far as a recipe accepts them."""
    return [stage for stage in stages_of(component) if stage["site"] in LACKING]


@check(*KINDS, applies=lacks_nothing, slow=True)
def check_missing_signals_are_named(component: Component) -> None:
    """Where a site lacks a signal, binding says so before anything runs, naming the signal."""
    for stage in _before(component):
        missing = sorted(need.kind for need in component.needs() if need.kind in LACKING[stage["site"]])
        for tiny in {scene.tiny.name: scene.tiny for scene in scenes(component)}.values() if missing else ():
            scene = Scene(tiny, stage)
            try:
                scene.bind()
            except BindingError as error:
                if "is not a site of this model" not in str(error) and missing[0] not in str(error):
                    fail(f"at {scene} the error does not name {missing[0]}: {error}", "a `Need` that prints otherwise")
            else:
                fail(
                    f"at {scene} the recipe was bound, although {missing[0]} is missing there",
                    "needs() did not return it when binding asked; it must follow from the parameters alone",
                )


@check(*KINDS, applies=budgets_that_keep_all, slow=True)
def check_keeping_everything_changes_nothing(component: Component) -> None:
    """With a budget for every token, logits and generated tokens are those of the unpruned model, bit for bit.

    An allocator whose counts follow the signals may keep fewer all the same.
    """
    for scene in scenes(component):
        budget = _keeping_all(scene)
        if budget is None:
            continue
        inputs = scene.tiny.make_inputs((1, 2) if budget.keys() <= ALL.keys() else (1,))
        plain, expected = forward(scene.tiny.model, inputs).logits, generate(scene.tiny.model, inputs)
        with scene.bind(budget=budget) as run:
            logits, made = forward(run.model, inputs).logits, generate(run.model, inputs)
        less = [e for e in run.report.events if {*e.realised} != {run.report.layouts[e.sample].vision}]
        if less and isinstance(component, Allocator) and not component.count_is_static:
            continue
        if less:
            event, total = less[0], run.report.layouts[less[0].sample].vision
            fail(
                f"at {scene}, {budget}, layer {event.layer} kept {event.realised} of {total} tokens, not all",
                "rounding, or a count that does not follow the budget",
            )
        if not torch.equal(logits, plain) or not torch.equal(made.sequences, expected.sequences):
            fail(
                f"at {scene}, keeping every token changed the logits by {_distance(logits, plain):.1e}",
                "something beside the selection of tokens was changed: a hook, a weight, a table",
            )


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


@check(*KINDS, applies=no_scene, slow=True)
def check_cache_holds_what_was_allocated(component: Component) -> None:
    """The cache of every layer and KV head is as long as allocated, after the prompt and after three more tokens."""
    for scene in scenes(component):
        inputs = scene.tiny.make_inputs((2,))
        with scene.bind() as run:
            prefill = forward(run.model, inputs, use_cache=True).past_key_values
            _check_lengths(scene, run.report, prefill, 0, "after the prompt")
            decoded = generate(run.model, inputs, STEPS).past_key_values
            _check_lengths(scene, run.report, decoded, STEPS - 1, f"after {STEPS - 1} decoding steps")
        for event in run.report.events:
            exact = event.realised == event.requested
            less = all(a <= b for a, b in zip(event.realised, event.requested, strict=True))
            if not (exact if run.recipe.stages[0].selector.count_is_exact else less):
                fail(f"at {scene}, layer {event.layer}, {event.requested} were asked for but {event.realised} kept")


def _check_lengths(scene: Scene, report: Report, cache: Any, appended: int, when: str) -> None:
    vision, text = report.layouts[0].vision, report.text_tokens[0]
    stage = report.recipe.stages[0]
    for layer, held in enumerate(cache.layers):
        expected = [vision] * report.kv_heads
        for event in report.stage_events(0):
            if stage.site.kind == "kv" and event.layer == layer:
                expected = list(event.realised) * (report.kv_heads if len(event.realised) == 1 else 1)
            elif stage.site.kind != "kv" and (stage.site.is_tower or event.layer <= layer):
                expected = list(event.realised) * report.kv_heads
        expected = [count + text + appended for count in expected]
        if held.lengths()[0].tolist() != expected:
            fail(
                f"at {scene}, the cache of layer {layer} holds {held.lengths()[0].tolist()} tokens per KV head {when}, "
                f"expected {expected}"
            )


@check(*KINDS, applies=merges, slow=True)
def check_removal_equals_masking(component: Component) -> None:
    """The pruned model gives what the whole model gives with the removed tokens hidden by masks, to 1e-5."""
    from vtprune.verify.masks import reference, survivors

    for scene in scenes(component):
        inputs = scene.tiny.make_inputs((1, 2))
        with scene.bind() as run:
            logits = forward(run.model, inputs).logits
            made = generate(run.model, inputs, STEPS)
        report = run.report
        with reference(scene.tiny.model, report, inputs["input_ids"].shape[1]):
            expected = forward(scene.tiny.model, inputs).logits
            steps = generate(scene.tiny.model, inputs, STEPS)
        real = survivors(report, inputs)
        found = max(
            _distance(logits[real], expected[real]), _distance(torch.stack(made.logits), torch.stack(steps.logits))
        )
        if not found <= TOLERANCE:
            fail(
                f"at {scene}, logits differ by {found:.1e} from those with the removed tokens hidden by masks, more "
                f"than {TOLERANCE:.0e}",
                "something beside the selection of tokens was changed: hidden states, weights, a hook on all modules",
            )


@check(*KINDS, applies=lambda component: not_registered(component) or no_scene(component), slow=True)
def check_recipe_round_trip(component: Component) -> None:
    """A recipe that holds the component is the same, with the same hash, after it was written and read."""
    for scene in scenes(component):
        recipe = scene.recipe()
        again = Recipe.parse(recipe.to_dict())
        if again != recipe or again.hash != recipe.hash:
            fail(
                f"the recipe at {scene} came back as another one",
                "a field that is written with less than it holds; see the check round_trip_keeps_parameters",
            )
