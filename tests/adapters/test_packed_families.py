"""Families that pack images of different sizes into one sequence (Mistral3, LightOnOCR), and those whose tokens are
blends of patches: resamplers (Idefics2, Aria) and a convolutional projector (GOT-OCR 2.0)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.adapters.exactness import (
    RECIPES,
    REMOVALS,
    SITES,
    adapter_of,
    assert_equal_images_are_encoded_once,
    assert_flops_are_what_ran,
    assert_keeping_everything_changes_no_bit,
    assert_recipe_runs,
    assert_refused,
    assert_removal_is_masking,
    assert_samples_are_independent,
    by_sample,
    encoded,
    plain,
    tiny,
)
from tests.exactness.helpers import TOLERANCE, distance, matrix, spied, taken
from vtprune.core.adapter import VisionCall
from vtprune.core.engine.tower import tokens_of
from vtprune.core.signals import Need
from vtprune.testing.models import Inputs

MERGED = ("mistral3", "lighton_ocr")
PACKED = (*MERGED, "pixtral")
RESAMPLERS = ("idefics2", "aria", "aria-small-crops")
BLENDED = (*RESAMPLERS, "got_ocr2")
FAMILIES = (*PACKED, *BLENDED)
UNIT = 4
CLOSE = 1e-6


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def is_slow(name: str, _: str) -> bool:
    return "eager" in name or name == "aria-small-crops"


def combinations(slow: Sequence[str] = ()) -> list[Any]:
    """Sites that a family has: where tokens are blends of patches, there is none before the projector."""
    every = matrix(FAMILIES, SITES, slow=lambda name, site: name in slow)
    return [point for point in every if point.values[0] in PACKED or point.values[1] != "vision.output"]


def patch_counts(name: str, inputs: Inputs) -> list[int]:
    return (inputs["image_sizes"] // tiny(name).model.config.vision_config.patch_size).prod(-1).tolist()


def merged_markers(name: str, inputs: Inputs) -> Tensor:
    """int64 ``[token, unit]``: which patches of the packed sequence the model's own merger puts into each token; one
    each where it has no merger."""
    if name not in MERGED:
        return torch.arange(sum(patch_counts(name, inputs)))[:, None]
    merger: Any = tiny(name).model.model.get_submodule(adapter_of(name).projector or "").patch_merger
    width = merger.merging_layer.in_features // UNIT
    numbers = torch.arange(sum(patch_counts(name, inputs))).float()[:, None].expand(-1, width)
    sizes = inputs["image_sizes"]
    merged = taken(merger.merging_layer, lambda args, _: args[0], lambda: merger(numbers, sizes))[0]
    return merged[:, :UNIT].long()  # a channel's patches stand together


@pytest.mark.parametrize("name", PACKED)
def test_rows_are_the_models_own_merger(name: str) -> None:
    inputs, _, _ = plain(name)
    call, images = encoded(name, inputs)
    assert len({image.grid for image in images}) > 2, "the batch holds images of different sizes"
    adapter = adapter_of(name)
    assert adapter.tower_rows is not None
    assert adapter.projector_rows is not None
    assert torch.equal(torch.cat(adapter.tower_rows(tiny(name).model, call, images)), merged_markers(name, inputs))
    assert torch.equal(torch.cat(adapter.projector_rows(tiny(name).model, call, images)), merged_markers(name, inputs))
    sides = [(1, height // 8, width // 8) for height, width in inputs["image_sizes"].tolist()]
    assert [image.grid for image in images] == sides


@pytest.mark.parametrize("name", MERGED)
def test_a_last_row_of_patches_that_makes_no_token(name: str) -> None:
    """Five by seven patches make two by three tokens, as in the model's own merger."""
    inputs = tiny(name).make_inputs((2,), sizes=[(20, 28), (32, 12)])
    call, images = encoded(name, inputs)
    rows = adapter_of(name).tower_rows
    assert rows is not None
    assert [image.grid for image in images] == [(1, 2, 3), (1, 4, 1)]
    assert torch.equal(torch.cat(rows(tiny(name).model, call, images)), merged_markers(name, inputs))


@pytest.mark.parametrize("name", PACKED)
def test_projecting_the_projectors_input_gives_the_features(name: str) -> None:
    model, (inputs, _, _) = tiny(name).model, plain(name)
    adapter = adapter_of(name)
    assert adapter.projector is not None
    assert adapter.projector_rows is not None
    assert adapter.project is not None
    projector = model.model.get_submodule(adapter.projector)
    given = taken(projector, lambda args, _: args[0], lambda: encoded(name, inputs))
    call, images = encoded(name, inputs)
    rows = torch.cat(adapter.projector_rows(model, call, images))
    assert distance(adapter.project(model, tokens_of(given, rows)), torch.cat(call.features)) < TOLERANCE
    mixed = rows.flip(1 if name in MERGED else 0)
    assert distance(adapter.project(model, tokens_of(given, mixed)), torch.cat(call.features)) > 0.1


@pytest.mark.parametrize("name", PACKED)
def test_received_attention_is_the_mean_over_the_rows_of_the_own_image(name: str) -> None:
    inputs, _, _ = plain(name)
    needs = [Need("vision_attention", "received", layer) for layer in (0, -2)]
    seen, report = spied(tiny(name).model, inputs, "vision.output", Need("features"), *needs)
    model: Any = tiny(f"{name}/eager").model.model
    tower = model.get_submodule(adapter_of(name).vision_tower)
    attentions = tower(inputs["pixel_values"], image_sizes=inputs["image_sizes"], output_attentions=True).attentions
    patches = merged_markers(name, inputs)
    for need in needs:
        assert need.layer is not None
        packed, start, received = attentions[need.layer][0], 0, []
        for count in patch_counts(name, inputs):
            block = packed[:, start : start + count, start : start + count]
            assert distance(block.sum(-1), torch.ones(())) < TOLERANCE, "each image attends to itself"
            received.append(block.mean(1))
            start += count
        tokens = torch.cat(received, -1)[:, patches].mean(-1)
        expected = by_sample(tokens.T, inputs)
        for sample, layout in enumerate(report.layouts):
            if layout.vision:
                assert distance(seen[sample][1][need], expected[sample].T) < 5 * CLOSE
    projector = tiny(name).model.model.get_submodule(adapter_of(name).projector or "")
    given = taken(projector, lambda args, _: args[0].flatten(0, -2), lambda: encoded(name, inputs))[0]
    carried = by_sample(given[patches].mean(1), inputs)
    for sample, layout in enumerate(report.layouts):
        if layout.vision:
            assert torch.equal(seen[sample][1][Need("features")], carried[sample])


@pytest.mark.parametrize(("name", "site"), combinations(slow=("aria-small-crops",)))
def test_keeping_everything(name: str, site: str) -> None:
    assert_keeping_everything_changes_no_bit(name, site)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "site"), combinations())
def test_keeping_everything_with_eager_attention(name: str, site: str) -> None:
    assert_keeping_everything_changes_no_bit(f"{name}/eager", site)


@pytest.mark.parametrize(
    ("name", "recipe"),
    matrix((*FAMILIES, *(f"{name}/eager" for name in FAMILIES)), REMOVALS, slow=is_slow),
)
def test_removal_is_masking(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe)


@pytest.mark.parametrize(
    ("name", "recipe"),
    matrix(FAMILIES, REMOVALS, slow=lambda name, recipe: is_slow(name, recipe) or recipe not in ("projector", "kv")),
)
def test_beams(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe, steps=8, num_beams=3)


@pytest.mark.parametrize(("name", "recipe"), matrix(FAMILIES, RECIPES, slow=is_slow))
def test_published_recipes(name: str, recipe: str) -> None:
    assert_recipe_runs(name, recipe)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "idefics2"])
def test_equal_images_are_encoded_once(name: str) -> None:
    assert_equal_images_are_encoded_once(
        name, **({"sizes": [(16, 40)] * 2} if name in PACKED else {"splits": [(1, 2)] * 2})
    )


@pytest.mark.parametrize("name", [*PACKED, "got_ocr2"])
def test_flops_are_what_ran(name: str) -> None:
    assert_flops_are_what_ran(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_independent(name: str) -> None:
    assert_samples_are_independent(name)


@pytest.mark.parametrize("name", BLENDED)
def test_what_belongs_to_patches_is_refused(name: str) -> None:
    no_map = "has no map from the rows of the vision tower to the language model's tokens"
    for query in ("cls", "received"):
        scorer = {"name": "cls_attention", "query": query}
        assert_refused(name, {"site": "projector.output", "scorer": scorer, "budget": 0.5}, no_map)
    assert_refused(
        name,
        {"site": "vision.output", "scorer": "random", "budget": 0.5},
        "has no map from the projector's input",
        "use projector.output",
    )


@pytest.mark.parametrize("name", RESAMPLERS)
def test_latents_form_no_grid(name: str) -> None:
    assert_refused(name, {"site": "projector.output", "scorer": "uniform_grid", "budget": 0.5}, "needs grid")


def test_convolved_tokens_form_a_grid() -> None:
    """Sides are halved twice, rounding up, as the projector's convolutions do."""
    model: Any = tiny("got_ocr2").model
    inputs = tiny("got_ocr2").make_inputs((1, 1))
    call, images = encoded("got_ocr2", inputs)
    assert {image.grid for image in images} == {(1, 4, 4)}
    with vtprune.prune(model, "uniform_grid") as run:
        model(**inputs)
        assert run.report.events
    for side in (36, 44, 52):
        pixels = torch.zeros(1, 3, side, side)
        features = model.model.multi_modal_projector(torch.zeros(1, 16, side // 4, side // 4))
        call = VisionCall("image", {"pixel_values": pixels}, None, ())
        assert adapter_of("got_ocr2").images(model, call)[0].tokens == features.shape[1]


@pytest.mark.parametrize("name", PACKED)
def test_a_tower_without_cls_token_refuses_its_attention(name: str) -> None:
    assert_refused(
        name, {"site": "projector.output", "scorer": "cls_attention", "budget": 0.5}, "no CLS token", "query: received"
    )


def test_images_that_pad_a_sample_and_padding_around_an_image_are_left_out() -> None:
    """Idefics2 pads samples in the number of images, and images in their size."""
    inputs = tiny("idefics2").make_inputs((1, 2), sizes=[(16, 32), (28, 20), (32, 32)])
    _, images = encoded("idefics2", inputs)
    assert [tuple(image.pixels.shape[1:]) for image in images] == [(16, 32), (28, 20), (32, 32)]
    del inputs["pixel_attention_mask"]
    _, images = encoded("idefics2", inputs)
    assert [tuple(image.pixels.shape[1:]) for image in images] == [(32, 32)] * 3
