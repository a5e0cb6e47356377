"""A component in a tiny model: what it must leave alone, and whom it must not notice."""

from __future__ import annotations

from typing import Any

import torch

from vtprune.core.component import Component, Reducer
from vtprune.core.errors import BudgetError
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.in_model import KINDS, no_scene, scenes
from vtprune.testing.restoration import changes, snapshot
from vtprune.testing.scenes import PlannedError, Scene, failing, forward, generate
from vtprune.verify.compare import TOLERANCE


@check(*KINDS, applies=no_scene, slow=True)
def check_batch_mates_do_not_matter(component: Component) -> None:
    """A sample alone gives what it gives in a left-padded batch with samples that have other numbers of images."""
    images = (1, 2, 1)
    for scene in scenes(component):
        batch = scene.tiny.make_inputs(images)
        with scene.bind() as run:
            together = generate(run.model, batch)
            report = run.report
        for sample, count in enumerate(images):
            with scene.bind() as alone:
                single = generate(alone.model, scene.tiny.make_inputs((count,), seed=sample))
            kept = [[e.layer, *(k.tolist() for k in e.kept)] for e in report.events if e.sample == sample]
            own = [[e.layer, *(k.tolist() for k in e.kept)] for e in alone.report.events]
            far = max(
                float((one[sample] - other[0]).abs().max())
                for one, other in zip(together.logits, single.logits, strict=True)
            )
            if kept != own or far > TOLERANCE:
                what = "keeps other tokens" if kept != own else f"has logits that differ by {far:.1e}"
                fail(
                    f"at {scene}, sample {sample} of a batch with {images} images {what} than alone",
                    "a mean, a maximum or a softmax over the whole tensor; reduce over the axes after `batch` only",
                )


@check(*KINDS, applies=no_scene, slow=True)
def check_samples_without_image_are_left_alone(component: Component) -> None:
    """A sample without an image in the batch works, gives what the unpruned model gives, and changes nobody else."""
    images = (1, 0, 2)
    for scene in scenes(component):
        inputs = scene.tiny.make_inputs(images)
        plain = forward(scene.tiny.model, inputs).logits
        with scene.bind() as run:
            logits = forward(run.model, inputs).logits
        report = run.report
        real = inputs["attention_mask"][1].bool()
        far = float((logits[1][real] - plain[1][real]).abs().max())
        if far > TOLERANCE:
            fail(f"at {scene}, the logits of a sample without an image changed by {far:.1e}")
        if sorted({event.sample for event in report.events if sum(event.realised)}) != [0, 2]:
            fail(f"at {scene}, the samples with an image were not pruned beside one that has none")


@check(*KINDS, applies=no_scene, slow=True)
def check_protected_tokens_survive(component: Component) -> None:
    """Tokens that the recipe protects are kept, whatever the component prefers; text is never lost."""
    for scene in scenes(component):
        inputs = scene.tiny.make_inputs((1, 2))
        for protect in ((0, 3, -1), (-1,)):
            try:
                with scene.bind(protect=protect) as run:
                    forward(run.model, inputs)
            except BudgetError:  # it keeps fewer than three tokens
                continue
            break
        report = run.report
        for event in report.events:
            total = report.layouts[event.sample].vision
            for kept in event.kept:
                if lost := {token % total for token in protect} - set(kept.tolist()):
                    fail(f"at {scene}, layer {event.layer}, protected tokens {sorted(lost)} were removed")


@check(*KINDS, applies=no_scene, slow=True)
def check_model_is_restored(component: Component) -> None:
    """After the context, hooks, attributes, configurations and tables are what they were, and so are the logits."""
    for scene in scenes(component):
        model, inputs = scene.tiny.model, scene.tiny.make_inputs((1, 2))
        plain, before = forward(model, inputs).logits, snapshot(model)
        with scene.bind() as run:
            generate(run.model, inputs)
        _check_restored(scene, before, plain, inputs, "after the context was left")


def is_called(component: Component) -> str | None:
    """Why an exception cannot come out of a component."""
    if isinstance(component, Reducer) and not component.merges:
        return "it does not define merge, so nothing of it is called"
    return no_scene(component)


@check(*KINDS, applies=is_called, slow=True)
def check_model_is_restored_after_an_error(component: Component) -> None:
    """The same where an exception in the component ended the context."""
    for scene in scenes(component):
        model, inputs = scene.tiny.model, scene.tiny.make_inputs((1, 2))
        plain, before = forward(model, inputs).logits, snapshot(model)
        broken = scene.holding(component.kind, failing(component))
        try:
            with broken.bind() as run:
                generate(run.model, inputs)
        except PlannedError:
            pass
        _check_restored(scene, before, plain, inputs, "after an exception inside the component")


def _check_restored(scene: Scene, before: dict[str, Any], plain: Any, inputs: Any, when: str) -> None:
    if changed := changes(before, snapshot(scene.tiny.model)):
        fail(
            f"at {scene}, {when}, {changed[0]} is not what it was ({len(changed)} changes)",
            "the component changed something that belongs to the model or to the process; components are pure",
        )
    if not torch.equal(forward(scene.tiny.model, inputs).logits, plain):
        fail(f"at {scene}, {when}, the unpruned model gives other logits than before")


@check(*KINDS, applies=no_scene, slow=True)
def check_foreign_hooks_survive(component: Component) -> None:
    """A hook that someone else put on a layer fires inside the context and after it."""
    for scene in scenes(component):
        _check_hooks_fire(scene)


def _check_hooks_fire(scene: Scene) -> None:
    model, inputs = scene.tiny.model, scene.tiny.make_inputs((1,))
    seen: list[str] = []
    layer = model.get_decoder().layers[-1]
    handles = [
        layer.register_forward_hook(lambda *_: seen.append("after")),
        layer.register_forward_pre_hook(lambda *_: seen.append("before")),
    ]
    try:
        with scene.bind() as run:
            forward(run.model, inputs)
            inside = sorted(seen)
        seen.clear()
        forward(model, inputs)
        for place, fired in (("inside the context", inside), ("after it", sorted(seen))):
            if fired != ["after", "before"]:
                fail(
                    f"at {scene}, hooks of someone else on the last layer fired {fired} {place}, expected each once",
                    "hooks were cleared by kind; remove only those that you have registered, by their handles",
                )
    finally:
        for handle in handles:
            handle.remove()


@check(*KINDS, applies=no_scene, slow=True)
def check_runs_in_bfloat16(component: Component) -> None:
    """In a model of bfloat16 the component works, and keeps as many tokens as allocated."""
    from vtprune.verify.settings import fresh

    for scene in scenes(component):
        inputs = {
            name: tensor.bfloat16() if tensor.is_floating_point() else tensor
            for name, tensor in scene.tiny.make_inputs((1, 2)).items()
        }
        with scene.bind(fresh(scene.tiny.model, torch.bfloat16)) as run:
            made = generate(run.model, inputs)
        if not all(bool(logits.isfinite().all()) for logits in made.logits):
            fail(f"at {scene}, in bfloat16, logits are not finite")
        exact = run.recipe.stages[0].selector.count_is_exact
        for event in run.report.events:
            if exact and event.realised != event.requested:
                fail(f"at {scene}, in bfloat16, {event.requested} were asked for but {event.realised} kept")
