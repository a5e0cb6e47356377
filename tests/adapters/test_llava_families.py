"""The LLaVA families: exactness with several images, tiles and videos, recipes, images that appear twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.adapters.llava_by_hand import (
    BATCHES,
    CASES,
    FAMILIES,
    SEED,
    WITH_VIDEO,
    kinds,
    plain,
    prompt,
    tiny,
)
from tests.exactness.helpers import (
    POWER,
    TOLERANCE,
    Stages,
    assert_agree,
    distance,
    generate,
    matrix,
    reference,
    survivors,
)
from vtprune.testing.models import Inputs, vision_mask
from vtprune.testing.reference import MaskedReference, from_layer

CLOSE = 1e-6
RANDOM = {"scorer": "random"}
SITES = ("vision.output", "projector.output", "llm.layers[1]", "llm.layers[0].kv")
REMOVALS: dict[str, Stages] = {
    "projector": [{"site": "projector.output", **RANDOM, "budget": 0.4}],
    "layer": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.25, "scope": "image"}],
    "kv": [
        {"site": "llm.layers[1:3].kv", "scorer": {"name": "attention", "head_reduction": "none"}, "budget": 0.2},
    ],
    "tower": [
        {"site": "vision.output", "selector": "max_min", "budget": 0.7},
        {"site": "projector.output", "scorer": {"name": "cls_attention", "query": "received"}, "budget": 0.4},
    ],
}
RECIPES = ("plphp", "greedyprune", "fastv", "divprune")


@pytest.fixture(autouse=True)
def _one_thread_no_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def is_side_case(name: str, batch: str) -> bool:
    """Batches of images alone, or of videos alone, of a family that takes both in one prompt."""
    return name in WITH_VIDEO and batch != "mixed"


# -- exactness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_a_batch_is_its_samples(name: str, batch: str) -> None:
    """In the unpruned model, and in what a pruned one keeps."""
    model, (_, together) = tiny(name).model, plain(name, batch)
    scorer = {"name": "cls_attention", "query": "received"}
    stages: Stages = [
        {"site": "projector.output", "scorer": scorer, "budget": 0.5},
        {"site": "llm.layers[1]", **RANDOM, "budget": 0.3},
    ]
    with vtprune.prune(model, {"stages": stages}) as run:
        model(**prompt(name, batch))
        report = run.report
    for sample in range(together.logits.shape[1]):
        counts = {kind: (row[sample],) for kind, row in BATCHES[batch].items()}
        inputs = tiny(name).make_inputs(**counts, seed=SEED + sample)
        alone = generate(model, inputs, 3)
        assert distance(alone.logits[:, 0], together.logits[:3, sample]) < TOLERANCE
        if report.layouts[sample].vision:
            with vtprune.prune(model, {"stages": stages}) as run:
                model(**inputs)
            assert [run.report.kept(stage) for stage in (0, 1)] == [report.kept(stage, sample) for stage in (0, 1)]


@pytest.mark.parametrize(
    ("name", "batch", "site"),
    [
        pytest.param(name, batch, site, marks=[pytest.mark.slow] * (site in SITES or is_side_case(name, batch)))
        for name, batch in CASES
        for site in (*SITES, "merge", "all")
    ],
)
def test_keeping_everything_changes_no_bit(name: str, batch: str, site: str) -> None:
    model, inputs, (logits, generated) = tiny(name).model, prompt(name, batch), plain(name, batch)
    stages: Stages = [{"site": at, **RANDOM, "budget": 1.0} for at in (SITES if site in ("all", "merge") else (site,))]
    if site == "merge":
        stages = [{**stage, "reducer": "merge"} for stage in stages[:3]]
    with vtprune.prune(model, {"stages": stages}) as run:
        assert torch.equal(model(**inputs).logits, logits)
        found = generate(model, inputs)
    assert torch.equal(found.tokens, generated.tokens)
    assert torch.equal(found.logits, generated.logits)
    assert [layout.vision for layout in run.report.layouts] == vision_mask(inputs).sum(1).tolist()
    assert {event.stage for event in run.report.events} == set(range(len(stages)))


@pytest.mark.parametrize(
    ("name", "batch", "recipe"),
    [
        pytest.param(name, batch, recipe, marks=[pytest.mark.slow] * is_side_case(name, batch))
        for name, batch in CASES
        for recipe in REMOVALS
    ],
)
def test_removal_equals_masking(name: str, batch: str, recipe: str) -> None:
    model, inputs, (_, unpruned) = tiny(name).model, prompt(name, batch), plain(name, batch)
    with vtprune.prune(model, {"stages": REMOVALS[recipe]}) as run:
        logits, generated = model(**inputs).logits, generate(model, inputs)
    report = run.report
    with reference(model, report, inputs["input_ids"].shape[1]):
        expected_logits, expected = model(**inputs).logits, generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    assert_agree(generated, expected)
    effect = (generated.logits - unpruned.logits).abs().amax((0, 2))
    has_vision = vision_mask(inputs).any(-1)
    assert bool((effect[has_vision] > POWER).all()), f"the reference would not notice a missing prune: {effect}"
    assert bool((effect[~has_vision] < TOLERANCE).all())


def hidden_in_tower(model: Any, first: int, seen: Sequence[Tensor]) -> ExitStack:
    """Hide patches from every vision layer from ``first`` on. seen: masks of the tower's calls, which take turns."""
    stack = ExitStack()
    for layer in model.model.vision_tower.encoder.layers[first:]:
        masks = cycle(seen)

        def hides(_: Any, args: Any, kwargs: dict[str, Any], masks: Iterator[Tensor] = masks) -> Any:
            length = (args[0] if args else kwargs["hidden_states"]).shape[1]
            return args, {**kwargs, "attention_mask": next(masks).expand(-1, -1, length, -1)}

        stack.callback(layer.self_attn.register_forward_pre_hook(hides, with_kwargs=True).remove)
    return stack


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        pytest.param(name, batch, marks=[pytest.mark.slow] * is_side_case(name, batch))
        for name, batch in CASES
        if name != "video_llava"
    ],
)
def test_patches_that_leave_inside_the_tower(name: str, batch: str) -> None:
    model, inputs, (logits, _) = tiny(name).model, prompt(name, batch), plain(name, batch)
    stage = {"site": "vision.layers[1]", **RANDOM, "budget": 0.5}
    with vtprune.prune(model, {"stages": [{**stage, "budget": 1.0}]}):
        assert torch.equal(model(**inputs).logits, logits)
    with vtprune.prune(model, {"stages": [stage]}) as run:
        pruned, generated = model(**inputs).logits, generate(model, inputs)
    stays = ~vision_mask(inputs)
    for sample, layout in enumerate(run.report.layouts):
        stays[sample, layout.positions[run.report.kept(0, sample)]] = True
    seen = [kind.seen(stays[inputs["input_ids"] == token].tolist()) for token, kind in kinds(name, inputs).items()]
    with hidden_in_tower(model, 1, seen), MaskedReference(model, from_layer(model, stays, 0)):
        expected_logits, expected = model(**inputs).logits, generate(model, inputs)
    kept = stays & inputs["attention_mask"].bool()
    assert distance(pruned[kept], expected_logits[kept]) < TOLERANCE
    assert distance(pruned[kept], logits[kept]) > POWER
    assert_agree(generated, expected)


@pytest.mark.parametrize(("name", "recipe"), matrix(FAMILIES, RECIPES))
def test_recipes_run_by_name(name: str, recipe: str) -> None:
    batch = "mixed" if name in WITH_VIDEO else "images"
    model, inputs, (_, unpruned) = tiny(name).model, prompt(name, batch), plain(name, batch)
    with vtprune.prune(model, recipe) as run:
        generated = generate(model, inputs, 4)
    for event in run.report.events:
        vision = run.report.layouts[event.sample].vision
        assert all(0 < len(kept) < vision for kept in event.kept) or not vision
    assert distance(generated.logits, unpruned.logits[:4]) > POWER


@pytest.mark.parametrize("name", FAMILIES)
def test_beams_share_their_samples_images(name: str) -> None:
    videos = {"videos": (1, 1)} if name in WITH_VIDEO else {}
    model, inputs = tiny(name).model, tiny(name).make_inputs((1, 1), seed=SEED, **videos)
    stages = [*REMOVALS["tower"], {"site": "llm.layers[1:].kv", "scorer": "attention", "budget": 0.2}]
    with vtprune.prune(model, {"stages": stages}) as run:
        generated = generate(model, inputs, 8, num_beams=2)
    with reference(model, run.report, inputs["input_ids"].shape[1]):
        expected = generate(model, inputs, 8, num_beams=2)
    assert torch.equal(generated.tokens, expected.tokens)
    assert distance(generated.logits, expected.logits) < TOLERANCE


# -- images that appear twice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "video_llava"])
def test_an_image_that_appears_twice_is_encoded_once(name: str) -> None:
    made = tiny(name)
    videos = {"videos": (1,)} if name in WITH_VIDEO else {}
    one, other = (made.make_inputs((1,), seed=seed, text=(3, 3), **videos) for seed in (SEED, SEED + 2))
    inputs = stacked([one, other, one])
    stages = REMOVALS["tower"]
    with vtprune.prune(made.model, {"stages": stages}) as run:
        expected, apart = made.model(**inputs).logits, run.report
    base: Any = made.model.model
    seen: list[int] = []
    handle = base.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    with vtprune.prune(made.model, {"stages": stages}, share_images=True) as run:
        logits, report = made.model(**inputs).logits, run.report
    unshared = len(seen)
    made.model(**inputs)
    handle.remove()
    assert sum(seen[:unshared]) < sum(seen[unshared:])
    assert distance(logits, expected) < TOLERANCE
    assert [event.to_dict() for event in report.events] == [event.to_dict() for event in apart.events]
    assert report.flops == apart.flops
    assert report.layouts[0].segments == apart.layouts[0].segments


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_the_same_image_twice_in_a_prompt_is_two_images(name: str) -> None:
    made = tiny(name)
    sizes = {} if name == "llava" else {"sizes": [(56, 56), (56, 56)]}
    inputs = made.make_inputs((2,), seed=SEED, **sizes)
    inputs["pixel_values"] = inputs["pixel_values"][[0, 0]]
    layouts = []
    for share_images in (False, True):
        with vtprune.prune(made.model, {"stages": REMOVALS["layer"]}, share_images=share_images) as run:
            made.model(**inputs)
        layouts.append([(segment.image, segment.grid) for segment in run.report.layouts[0].segments])
    assert layouts[0] == layouts[1]
    assert {image for image, _ in layouts[0]} == {0, 1}


def test_images_of_the_same_pixels_and_different_sizes_are_two_images() -> None:
    """A black image that lies on its side has the pixels of one that stands upright, but other tokens."""
    made = tiny("llava_next")
    inputs = made.make_inputs((1, 1), seed=SEED, sizes=[(28, 56), (56, 28)])
    inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    with vtprune.prune(made.model, {"stages": REMOVALS["layer"]}, share_images=True) as run:
        made.model(**inputs)
    assert [layout.segments[1].grid for layout in run.report.layouts] == [(1, 4, 9), (1, 8, 5)]


def stacked(prompts: list[Inputs]) -> Inputs:
    """Prompts of one sample each as one left-padded batch."""
    ids = [inputs["input_ids"][0] for inputs in prompts]
    pad = torch.nn.utils.rnn.pad_sequence
    joined = {"input_ids": pad(ids, batch_first=True, padding_side="left")}
    masks = [torch.ones_like(row) for row in ids]
    joined["attention_mask"] = pad(masks, batch_first=True, padding_side="left")
    for key in set(prompts[0]) - set(joined):
        values = [inputs[key] for inputs in prompts]
        if key == "pixel_values" and values[0].dim() == 5:
            joined[key] = pad([value[0] for value in values], batch_first=True)
        else:
            joined[key] = torch.cat(values)
    return joined
