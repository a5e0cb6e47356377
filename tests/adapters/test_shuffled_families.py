"""Families that put neighbouring patches of square crops into one token: InternVL, Idefics3, SmolVLM, Ovis2, Aya
Vision, Command A Vision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters.exactness import (
    BATCH,
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
from vtprune.core.engine.tower import tokens_of
from vtprune.core.signals import Need
from vtprune.testing.models import Inputs

FAMILIES = ("internvl", "idefics3", "smolvlm", "ovis2", "aya_vision", "cohere2_vision")
TWINS = ("smolvlm", "cohere2_vision")
"""Served by the adapter of another one here."""
SIDE, UNIT, TOKENS = 8, 4, 16
"""Patches along the side of a crop, patches of a token, tokens of a crop, in each of the tiny models."""
CLS = {"internvl": 1}
CLOSE = 1e-6


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def is_slow(name: str, _: str) -> bool:
    return "eager" in name or name in TWINS


def markers(name: str) -> Tensor:
    """int64 ``[vision, unit]``: which patches of a crop the model itself puts into each token, and in which order."""
    model: Any = tiny(name).model.model
    numbers = torch.arange(SIDE * SIDE).float()
    if name == "internvl":
        shuffled = model.pixel_shuffle(numbers.view(1, SIDE, SIDE, 1), model.config.downsample_ratio)
    elif name == "ovis2":
        tower, width = model.vision_tower, model.config.vision_config.hidden_size
        patches = numbers.view(1, -1, 1).expand(-1, -1, width)
        handle = tower.transformer.register_forward_hook(lambda module, args, output: (patches,))
        pixels = torch.zeros(1, 3, model.config.vision_config.image_size, model.config.vision_config.image_size)
        shuffled = taken(tower.head_linear, lambda args, _: args[0], lambda: tower(pixels))[0][..., ::width]
        handle.remove()
    elif name in ("aya_vision", "cohere2_vision"):
        shuffled = model.multi_modal_projector.pixel_shuffle(numbers.view(1, -1, 1))
    else:
        shuffled = model.connector.pixel_shuffle(numbers.view(1, -1, 1), model.config.scale_factor)
    return shuffled.reshape(TOKENS, UNIT).long()


def tower_attentions(name: str, inputs: Inputs) -> list[Tensor]:
    """Per vision layer ``[crop, head, row, key]`` of the eager model; rows are those of the CLS token, if there is one,
    and of the patches, keys those of the patches."""
    model: Any = tiny(f"{name}/eager").model.model
    pixels = inputs["pixel_values"]
    if pixels.dim() == 5:
        pixels = pixels.flatten(0, 1)
        pixels = pixels[(pixels != 0).flatten(1).any(1)]
    tower = model.vision_model if hasattr(model, "vision_model") else model.vision_tower
    return [layer[..., CLS.get(name, 0) :] for layer in tower(pixels, output_attentions=True).attentions]


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_the_models_own_shuffle(name: str) -> None:
    inputs, _, _ = plain(name)
    call, images = encoded(name, inputs)
    assert len(images) > sum(BATCH), "the batch holds images that are cut into crops"
    adapter, cls = adapter_of(name), CLS.get(name, 0)
    assert adapter.tower_rows is not None
    rows = adapter.tower_rows(tiny(name).model, call, images)
    for crop, found in enumerate(rows):
        assert torch.equal(found, markers(name) + cls + crop * (SIDE * SIDE + cls))
    assert all(image.grid == (1, 4, 4) for image in images)


@pytest.mark.parametrize("name", FAMILIES)
def test_projecting_the_projectors_input_gives_the_features(name: str) -> None:
    """Rows, and the order of the patches inside a token, are those that the model's own projector reads."""
    model, (inputs, _, _) = tiny(name).model, plain(name)
    adapter = adapter_of(name)
    assert adapter.projector is not None
    assert adapter.projector_rows is not None
    assert adapter.project is not None
    projector = model.model.get_submodule(adapter.projector)
    given = taken(projector, lambda args, _: args[0], lambda: encoded(name, inputs))
    call, images = encoded(name, inputs)
    rows = torch.cat(adapter.projector_rows(model, call, images))
    made = adapter.project(model, tokens_of(given, rows))
    assert distance(made, torch.cat(call.features)) < TOLERANCE
    swapped = adapter.project(model, tokens_of(given, rows.roll(1, 0)))
    assert distance(swapped, torch.cat(call.features)) > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_features_and_attention_of_the_tower(name: str) -> None:
    inputs, _, _ = plain(name)
    queries = ["received", *(["cls"] if name in CLS else [])]
    needs = [Need("vision_attention", query, layer) for query in queries for layer in (0, -2)]
    seen, report = spied(tiny(name).model, inputs, "vision.output", Need("features"), *needs)
    layers, patches = tower_attentions(name, inputs), markers(name)
    for need in needs:
        assert need.layer is not None
        rows = layers[need.layer]
        keys = rows[:, :, 0] if need.query == "cls" else rows[:, :, CLS.get(name, 0) :].mean(2)
        tokens = keys[:, :, patches].mean(-1)  # [crop, head, vision]
        expected = by_sample(tokens.transpose(1, 2).flatten(0, 1), inputs)
        for sample, layout in enumerate(report.layouts):
            if layout.vision:
                assert distance(seen[sample][1][need], expected[sample].T) < 5 * CLOSE
        assert tokens.std() > 1e-3
    model: Any = tiny(name).model.model
    projector = model.get_submodule(adapter_of(name).projector or "")
    given = taken(projector, lambda args, _: args[0], lambda: encoded(name, inputs))[0]
    if given.shape[1] == SIDE * SIDE:
        given = given[:, patches].mean(2)
    carried = by_sample(given.flatten(0, 1), inputs)
    for sample, layout in enumerate(report.layouts):
        if layout.vision:
            assert torch.equal(seen[sample][1][Need("features")], carried[sample])


@pytest.mark.parametrize(
    ("name", "site"),
    matrix((*FAMILIES, *(f"{name}/eager" for name in FAMILIES)), SITES, slow=is_slow),
)
def test_keeping_everything(name: str, site: str) -> None:
    assert_keeping_everything_changes_no_bit(name, site)


@pytest.mark.parametrize("name", FAMILIES)
def test_merging_nothing_into_nothing(name: str) -> None:
    assert_keeping_everything_changes_no_bit(name, "vision.output", "merge")


@pytest.mark.parametrize(
    ("name", "recipe"),
    matrix((*FAMILIES, *(f"{name}/eager" for name in FAMILIES)), REMOVALS, slow=is_slow),
)
def test_removal_is_masking(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe)


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", ["projector", "layer", "stages"])
def test_removal_is_masking_where_windows_are_short(recipe: str, attention: str) -> None:
    """Cohere2's sliding layers hide most of an image from what follows it; its full layer has no positions."""
    assert_removal_is_masking(f"aya_vision-window/{attention}", recipe)


@pytest.mark.parametrize(
    ("name", "recipe"),
    matrix(FAMILIES, REMOVALS, slow=lambda name, recipe: is_slow(name, recipe) or recipe not in ("projector", "kv")),
)
def test_beams(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe, steps=8, num_beams=3)


@pytest.mark.parametrize(("name", "recipe"), matrix(FAMILIES, RECIPES, slow=is_slow))
def test_published_recipes(name: str, recipe: str) -> None:
    assert_recipe_runs(name, recipe)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("idefics3", "smolvlm")])
def test_equal_images_are_encoded_once(name: str) -> None:
    assert_equal_images_are_encoded_once(name, splits=[(1, 2), (1, 2)])


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_are_what_ran(name: str) -> None:
    assert_flops_are_what_ran(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_independent(name: str) -> None:
    assert_samples_are_independent(name)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in CLS])
def test_a_tower_without_cls_token_refuses_its_attention(name: str) -> None:
    assert_refused(
        name, {"site": "projector.output", "scorer": "cls_attention", "budget": 0.5}, "no CLS token", "query: received"
    )


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_images_that_pad_a_sample_are_left_out(name: str) -> None:
    """Samples are padded with images of zeros to as many as the fullest has, in any place."""
    inputs, logits, _ = plain(name)
    pixels, mask = inputs["pixel_values"], inputs["pixel_attention_mask"]
    padded = {
        **inputs,
        "pixel_values": torch.cat([torch.zeros_like(pixels[:, :1]), pixels], 1),
        "pixel_attention_mask": torch.cat([torch.zeros_like(mask[:, :1]), mask], 1),
    }
    _, images = encoded(name, inputs)
    _, same = encoded(name, padded)
    assert len(images) == len(same)
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(images, same, strict=True))
    assert torch.equal(tiny(name).model(**padded).logits, logits)
