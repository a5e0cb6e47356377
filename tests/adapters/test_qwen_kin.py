"""GLM-OCR, VideoLLaMA3 and PaddleOCR-VL, which pack patches as Qwen-VL does; FLOPs of all these families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import vtprune
from tests.adapters.exactness import (
    RECIPES,
    REMOVALS,
    SEED,
    SITES,
    assert_equal_images_are_encoded_once,
    assert_flops_are_what_ran,
    assert_keeping_everything_changes_no_bit,
    assert_recipe_runs,
    assert_removal_is_masking,
    assert_samples_are_independent,
    tiny,
)
from tests.adapters.packed import NAMES
from tests.adapters.towers import assert_project_is_the_projector, assert_rows_are_those_that_matter
from tests.exactness.helpers import TOLERANCE, assert_agree, distance, generate, reference, survivors, taken
from vtprune.core.adapter import VisionCall
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.lookup import locate

KIN = ("glm_ocr", "video_llama_3", "paddleocr_vl")
ATTENTIONS = [*KIN, *(pytest.param(f"{name}/eager", marks=pytest.mark.slow) for name in KIN)]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", KIN)
def test_rows_and_projector(name: str) -> None:
    assert_rows_are_those_that_matter(name)
    assert_project_is_the_projector(name)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_keeping_everything_changes_no_bit(name: str, site: str) -> None:
    assert_keeping_everything_changes_no_bit(name, site)


@pytest.mark.parametrize("recipe", REMOVALS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_removal_is_masking(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", KIN)
def test_named_recipes(name: str, recipe: str) -> None:
    assert_recipe_runs(name, recipe)


@pytest.mark.parametrize("name", KIN)
def test_samples_are_independent(name: str) -> None:
    assert_samples_are_independent(name)


@pytest.mark.parametrize("name", ["glm_ocr", "paddleocr_vl"])
def test_equal_images_are_encoded_once(name: str) -> None:
    grids = [(1, 4, 8), (1, 4, 8)]
    assert_equal_images_are_encoded_once(name, grids=grids)


@pytest.mark.parametrize("name", [name for name in (*NAMES, *KIN) if not name.endswith("experts")])
def test_flops_are_what_ran(name: str) -> None:
    """Not of experts: the counter has no entry for grouped products."""
    assert_flops_are_what_ran(name)


@pytest.mark.parametrize("name", ["glm_ocr", "video_llama_3"])
def test_videos(name: str) -> None:
    """Removal at every kind of site, on videos whose frames stand apart."""
    model, inputs = tiny(name).model, tiny(name).make_inputs((0, 0), videos=(2, 1), seed=SEED)
    with vtprune.prune(model, {"stages": REMOVALS["stages"]}) as run:
        logits, generated = model(**inputs).logits, generate(model, inputs)
        report = run.report
    assert [[s.kind for s in layout.segments] for layout in report.layouts] == [["video"] * 2, ["video"]]
    with reference(model, report, inputs["input_ids"].shape[1]):
        expected_logits, expected = model(**inputs).logits, generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    assert_agree(generated, expected)


def test_a_videos_tokens_are_means_of_their_patches() -> None:
    """VideoLLaMA3 pools videos 2x2: the projector's input is the mean of the tower's output over the mapped rows."""
    model: Any = tiny("video_llama_3").model
    inputs = tiny("video_llama_3").make_inputs((0,), videos=(2,), video_grids=[(2, 4, 6), (3, 2, 4)])
    arguments = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")}
    parts, base = locate(model), model.model
    tower: list[torch.Tensor] = []
    hook = base.vision_model.post_layernorm.register_forward_hook(lambda module, args, output: tower.append(output))
    with hook:
        (made,) = taken(base.projector, lambda args, _: args[0], lambda: base.get_video_features(**arguments))
    call = VisionCall("video", arguments, None, ())
    images = parts.adapter.images(model, call)
    assert [(image.tokens, image.grid) for image in images] == [(12, (2, 2, 3)), (6, (3, 1, 2))]
    assert parts.adapter.tower_rows is not None
    rows = torch.cat(parts.adapter.tower_rows(model, call, images))
    assert distance(tower[0][rows].mean(1), made) < TOLERANCE


def test_videos_with_dropped_patches_are_refused() -> None:
    model = tiny("video_llama_3").model
    inputs = tiny("video_llama_3").make_inputs((0,), videos=(1,), video_grids=[(2, 4, 4)])
    at = (inputs["input_ids"][0] == model.config.video_token_id).nonzero()[0, 0]
    stays = torch.arange(inputs["input_ids"].shape[1]) != at
    fewer = {name: inputs[name][:, stays] for name in ("input_ids", "attention_mask")}
    mask = torch.ones(8, dtype=torch.bool)
    mask[0] = False
    with (
        vtprune.prune(model, {"stages": REMOVALS["layer"]}),
        pytest.raises(UnsupportedModeError, match="the prompt has 7 vision tokens, but the vision tower made 8"),
    ):
        model(**{**inputs, **fewer}, video_compression_mask=mask)
