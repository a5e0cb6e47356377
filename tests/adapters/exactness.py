"""What must hold for every family, whatever its tower does: keep-all, physical removal, recipes, independence."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vtprune
from tests.exactness.helpers import (
    POWER,
    TOLERANCE,
    Generated,
    Stages,
    assert_agree,
    distance,
    generate,
    has_image,
    reference,
    survivors,
    taken,
)
from vtprune.core.adapter import Adapter, VisionCall, VisionInput
from vtprune.core.engine.tower import returned_features
from vtprune.core.errors import BindingError
from vtprune.core.lookup import find_adapter, tower_type
from vtprune.testing.models import Inputs, Tiny, vision_mask
from vtprune.testing.models.families import variant

BATCH = (1, 2, 0, 1)
SEED = 7  # draws images of different sizes, and images that are cut into crops
SITES = ("vision.output", "projector.output", "llm.layers[1]", "llm.layers[0].kv")
PER_HEAD = {"name": "attention", "head_reduction": "none"}
REMOVALS: dict[str, Stages] = {
    "projector": [{"site": "projector.output", "scorer": "random", "budget": 0.3}],
    "layer": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.3}],
    "kv": [{"site": "llm.layers[1:3].kv", "scorer": PER_HEAD, "budget": 0.25}],
    "stages": [
        {"site": "projector.output", "selector": "max_min", "budget": 0.7},
        {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.5, "scope": "image"},
        {"site": "llm.layers[1:3].kv", "scorer": PER_HEAD, "budget": 0.3},
    ],
}
RECIPES = ("plphp", "greedyprune", "fastv", "divprune")
ENCODED = ("pixel_values", "pixel_attention_mask", "pixel_mask", "image_sizes")


@cache
def tiny(name: str) -> Tiny:
    """A tiny model by ``variant`` or ``variant/attention``."""
    which, _, attention = name.partition("/")
    return variant(which).make("eager" if attention == "eager" else "sdpa")


@cache
def plain(name: str) -> tuple[Inputs, Tensor, Generated]:
    """A padded batch with several images, its logits and its greedy generation in the unpruned model."""
    inputs = tiny(name).make_inputs(BATCH, seed=SEED)
    with torch.no_grad():
        return inputs, tiny(name).model(**inputs).logits, generate(tiny(name).model, inputs)


def assert_keeping_everything_changes_no_bit(name: str, site: str, reducer: str | None = None) -> None:
    model, (inputs, logits, generated) = tiny(name).model, plain(name)
    stage = {"site": site, "scorer": "random", "budget": 1.0, **({"reducer": reducer} if reducer else {})}
    with vtprune.prune(model, {"stages": [stage]}) as run:
        assert torch.equal(model(**inputs).logits, logits)
        found = generate(model, inputs)
        report = run.report
    assert torch.equal(found.tokens, generated.tokens)
    assert torch.equal(found.logits, generated.logits)
    assert [layout.vision for layout in report.layouts] == vision_mask(inputs).sum(1).tolist()
    assert report.events
    assert all(len(kept) == report.layouts[event.sample].vision for event in report.events for kept in event.kept)


def assert_removal_is_masking(name: str, recipe: str | Stages, **options: Any) -> None:
    model, (inputs, _, unpruned) = tiny(name).model, plain(name)
    stages = REMOVALS[recipe] if isinstance(recipe, str) else recipe
    if options:
        inputs = tiny(name).make_inputs((1, 1), seed=SEED)
        unpruned = generate(model, inputs, **options)
    with vtprune.prune(model, {"stages": stages}) as run:
        logits = model(**inputs).logits
        generated = generate(model, inputs, **options)
        report = run.report
    with reference(model, report, inputs["input_ids"].shape[1]):
        expected_logits = model(**inputs).logits
        expected = generate(model, inputs, **options)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    if options:
        assert torch.equal(generated.tokens, expected.tokens)
        assert distance(generated.logits, expected.logits) < TOLERANCE
        assert distance(generated.logits, unpruned.logits) > POWER
        return
    assert_agree(generated, expected)
    effect = (generated.logits - unpruned.logits).abs().amax((0, 2))
    assert bool((effect[has_image(inputs)] > POWER).all()), f"the reference would not notice a missing prune: {effect}"
    assert bool((effect[~has_image(inputs)] < TOLERANCE).all())


def assert_recipe_runs(name: str, recipe: str, steps: int = 6) -> None:
    model, (inputs, _, unpruned) = tiny(name).model, plain(name)
    with vtprune.prune(model, recipe) as run:
        generated = generate(model, inputs, steps)
        report = run.report
    with reference(model, report, inputs["input_ids"].shape[1]):
        expected = generate(model, inputs, steps)
    assert_agree(generated, expected)
    for event in report.events:
        vision = report.layouts[event.sample].vision
        assert all(len(kept) < vision for kept in event.kept) or not vision
    assert distance(generated.logits, unpruned.logits[:steps]) > POWER


def assert_samples_are_independent(name: str) -> None:
    """What a sample keeps, also of random scores, does not depend on its batch mates, their images or their padding."""
    model, (inputs, _, _) = tiny(name).model, plain(name)
    stages = [{"site": "projector.output", "scorer": "random", "budget": 0.4}]
    with vtprune.prune(model, {"stages": stages}) as run:
        together = model(**inputs).logits[:, -1]
        report = run.report
        for sample, count in enumerate(BATCH):
            if count:
                alone = model(**tiny(name).make_inputs((count,), seed=SEED + sample)).logits[0, -1]
                assert run.report.kept(0, 0) == report.kept(0, sample)
                assert distance(alone, together[sample]) < TOLERANCE


def assert_equal_images_are_encoded_once(name: str, **options: Any) -> None:
    """options: of the inputs, such that two samples' images have one shape."""
    model, inputs = tiny(name).model, tiny(name).make_inputs((1, 1), seed=SEED, **options)
    pixels = inputs["pixel_values"]
    inputs["pixel_values"] = torch.cat([pixels[: len(pixels) // 2]] * 2)
    if "pixel_mask" in inputs:
        inputs["pixel_mask"] = torch.cat([inputs["pixel_mask"][: len(pixels) // 2]] * 2)
    logits, reports, entered = [], [], []
    layers = model.model.get_submodule(f"{adapter_of(name).vision_tower}.{adapter_of(name).vision_layers}")
    for share in (False, True):
        with vtprune.prune(model, {"stages": REMOVALS["layer"]}, share_images=share) as run:
            found = taken(layers[0], lambda args, _: args[0].numel(), lambda: logits.append(model(**inputs).logits))
            reports.append(run.report)
        entered.append(sum(found))
    assert entered[1] == entered[0] // 2
    assert [event.to_dict() for event in reports[0].events] == [event.to_dict() for event in reports[1].events]
    assert distance(*logits) < TOLERANCE


def assert_flops_are_what_ran(name: str) -> None:
    """Within 1 %, of the tower and the pruned language model together. Eager attention: the counter has no entry for
    the sdpa kernel of the CPU."""
    model = tiny(f"{name}/eager").model
    inputs = tiny(name).make_inputs(BATCH, seed=SEED)
    with vtprune.prune(model, {"stages": REMOVALS["layer"]}) as run, FlopCounterMode(display=False) as counter:
        generate(model, inputs, 1)
        report = run.report
    assert report.flops < report.flops_full
    assert report.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def assert_refused(name: str, stage: dict[str, Any], *reasons: str) -> None:
    """Binding fails, and the error gives every reason."""
    with pytest.raises(BindingError) as caught:
        vtprune.prune(tiny(name).model, {"stages": [stage]})
    assert all(reason in str(caught.value) for reason in reasons), caught.value


def adapter_of(name: str) -> Adapter:
    model: Any = tiny(name).model
    return find_adapter([type(model).__name__], tower_type(model.config))


def encoded(name: str, inputs: Inputs) -> tuple[VisionCall, list[VisionInput]]:
    """The call that encodes a batch's images, and the rectangles of tokens that the adapter makes of it."""
    model: Any = tiny(name).model
    arguments = {key: inputs[key] for key in ENCODED if key in inputs}
    output = model.model.get_image_features(**arguments, return_dict=True)
    call = VisionCall("image", arguments, output, returned_features(output))
    return call, adapter_of(name).images(model, call)


def by_sample(rows: Tensor, inputs: Inputs) -> list[Tensor]:
    """Rows along axis 0, one for each vision token of the batch in order, split into samples."""
    return list(rows.split(vision_mask(inputs).sum(1).tolist()))
