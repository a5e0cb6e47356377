"""A sample's result does not depend on its batch mates, on padding, or on the order of samples."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import vtprune
from tests.exactness.helpers import TOLERANCE, Generated, Stages, assert_agree, distance, family, generate, matrix
from tests.exactness.manual import only_row
from tests.exactness.test_removal import RECIPES as REMOVALS
from vtprune.core.report import Event, Report
from vtprune.testing.models import PAD, Inputs, vision_mask

IMAGES = (1, 2, 0, 1)
STEPS = 6
SHIPPED = tuple(entry.name for entry in vtprune.components("recipe") if "/" not in entry.name)
MERGE: Stages = [{"site": "vision.output", "scorer": "random", "budget": 0.3, "reducer": "merge"}]
COMPOSED: dict[str, Stages] = {name: REMOVALS[name] for name in ("stages", "kv_ragged", "programme")} | {"merge": MERGE}
FAMILIES = ("llava-sdpa", "qwen-sdpa", "llava-eager", "qwen-eager")


def generated(name: str, recipe: str, inputs: Inputs) -> tuple[Generated, Report | None]:
    """Without an image there is nothing to prune: the plain model."""
    model = family(name).model
    if not bool(vision_mask(inputs).any()):
        return generate(model, inputs, STEPS), None
    with vtprune.prune(model, recipe if recipe in SHIPPED else {"stages": COMPOSED[recipe]}) as run:
        return generate(model, inputs, STEPS), run.report


def chosen(report: Report | None, sample: int) -> list[tuple[int, int, tuple[int, ...], list[list[int]]]]:
    """Stage, layer, requested counts and kept tokens of everything that happened to a sample."""

    def of(event: Event) -> tuple[int, int, tuple[int, ...], list[list[int]]]:
        return event.stage, event.layer, event.requested, [tokens.tolist() for tokens in event.kept]

    return [of(event) for event in report.events if event.sample == sample] if report else []


def pixel_rows(inputs: Inputs) -> list[Tensor]:
    """Each image's rows of ``pixel_values``."""
    if "image_grid_thw" in inputs:
        return list(inputs["pixel_values"].split(inputs["image_grid_thw"].prod(1).tolist()))
    return list(inputs["pixel_values"].split(1))


def reordered(inputs: Inputs, images: Sequence[int], order: Sequence[int]) -> Inputs:
    """The same batch with its samples in another order."""
    starts = [sum(images[:sample]) for sample in range(len(images))]
    pictures = [starts[sample] + i for sample in order for i in range(images[sample])]
    per_sample = ("input_ids", "attention_mask", "mm_token_type_ids")
    moved = {key: inputs[key][list(order)] for key in per_sample if key in inputs}
    rows = pixel_rows(inputs)
    moved["pixel_values"] = torch.cat([rows[picture] for picture in pictures])
    if "image_grid_thw" in inputs:
        moved["image_grid_thw"] = inputs["image_grid_thw"][pictures]
    return moved


def padded(inputs: Inputs, count: int) -> Inputs:
    """The same batch with more padding on the left."""
    pad = torch.nn.functional.pad
    rows = {key: pad(inputs[key], (count, 0)) for key in ("attention_mask", "mm_token_type_ids") if key in inputs}
    return {**inputs, **rows, "input_ids": pad(inputs["input_ids"], (count, 0), value=PAD)}


@pytest.mark.parametrize(
    ("name", "recipe"), matrix(FAMILIES, (*SHIPPED, *COMPOSED), slow=lambda name, recipe: "eager" in name)
)
def test_batch_mates_order_and_padding_do_not_matter(name: str, recipe: str) -> None:
    tiny = family(name)
    inputs = tiny.make_inputs(IMAGES, seed=5)
    together, report = generated(name, recipe, inputs)
    others = {
        "padded": (padded(inputs, 5), range(4)),
        "reordered": (reordered(inputs, IMAGES, (3, 1, 0, 2)), (3, 1, 0, 2)),
    }
    for variant, order in others.values():
        again, again_report = generated(name, recipe, variant)
        for row, sample in enumerate(order):
            assert chosen(again_report, row) == chosen(report, sample)
            assert_agree(only_row(again, row), only_row(together, sample))
    for sample, count in enumerate(IMAGES):
        alone, alone_report = generated(name, recipe, tiny.make_inputs((count,), seed=5 + sample))
        assert chosen(alone_report, 0) == (chosen(report, sample) if count else [])
        assert_agree(only_row(together, sample), alone)


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
@pytest.mark.parametrize("recipe", SHIPPED)
def test_padding_on_the_right_does_not_matter_to_a_prefill(name: str, recipe: str) -> None:
    tiny = family(name)
    left, right = (tiny.make_inputs(IMAGES, seed=5, side=side) for side in ("left", "right"))
    found = []
    for inputs in (left, right):
        with vtprune.prune(tiny.model, recipe) as run:
            logits = tiny.model(**inputs).logits
        real = inputs["attention_mask"].bool()
        found.append(([logits[sample, row] for sample, row in enumerate(real)], run.report))
    for sample in range(len(IMAGES)):
        assert chosen(found[0][1], sample) == chosen(found[1][1], sample)
        assert distance(found[0][0][sample], found[1][0][sample]) < TOLERANCE
