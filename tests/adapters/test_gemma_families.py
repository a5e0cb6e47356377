"""PaliGemma, Gemma 3 and Gemma 4: their maps from patches to tokens, and exact removal in their decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.adapters.exactness import (
    BATCH,
    RECIPES,
    SEED,
    SITES,
    adapter_of,
    assert_keeping_everything_changes_no_bit,
    assert_recipe_runs,
    assert_refused,
    assert_removal_is_masking,
    assert_samples_are_independent,
    plain,
    tiny,
)
from tests.adapters.towers import assert_project_is_the_projector, assert_rows_are_those_that_matter
from tests.exactness.helpers import POWER, TOLERANCE, Stages, distance, generate, reference, survivors
from vtprune.core.adapter import VisionCall
from vtprune.core.engine.layers import layer_kinds, site_faults
from vtprune.core.recipe import Recipe
from vtprune.testing.models.families import variant
from vtprune.testing.models.gemma3 import tiny_gemma3
from vtprune.testing.models.gemma4 import tiny_gemma4
from vtprune.testing.models.tiny import Inputs

PLAIN = ("paligemma", "gemma3", "gemma4")
DECODERS = (*PLAIN, "paligemma2", "gemma4-layer-inputs", "gemma4-shared", "gemma4-bidirectional")
REMOVALS = ("projector", "layer", "kv", "stages")
SHARED: dict[str, Stages] = {
    "drop_before_both": [{"site": "llm.layers[2]", "scorer": "random", "budget": 0.3}],
    "drop_between": [{"site": "llm.layers[3]", "scorer": "attention", "budget": 0.3}],
    "kv": [{"site": "llm.layers[2:4].kv", "scorer": "attention", "budget": 0.3}],
    "kv_of_one": [{"site": "llm.layers[3].kv", "scorer": "attention", "budget": 0.2}],
    "drop_and_kv": [
        {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.6},
        {"site": "llm.layers[3]", "scorer": "random", "budget": 0.3},
        {"site": "llm.layers[1:3].kv", "scorer": "attention", "budget": 0.15},
    ],
}


@pytest.mark.parametrize("name", PLAIN)
def test_rows_are_the_patches_that_a_token_is_made_of(name: str) -> None:
    assert_rows_are_those_that_matter(name)


@pytest.mark.parametrize("name", PLAIN)
def test_project_is_the_projector_on_some_tokens(name: str) -> None:
    assert_project_is_the_projector(name)


def test_gemma4_pools_by_place_whatever_the_order_of_the_patches() -> None:
    """The processor writes patches in raster order, but the model goes by their places, and so must the map."""
    inputs = tiny("gemma4").make_inputs((1,), seed=SEED)
    order = torch.randperm(inputs["pixel_values"].shape[1], generator=torch.Generator().manual_seed(0))
    shuffled: Inputs = {
        **inputs,
        **{key: inputs[key][:, order].clone() for key in ("pixel_values", "image_position_ids")},
    }
    assert_rows_are_those_that_matter("gemma4", shuffled)


@pytest.mark.parametrize("version", ["flat", "per_video"])
def test_gemma4_videos_are_frames_of_one_shape(version: str) -> None:
    """transformers 5.23 concatenates the frames of all videos, 5.17 stacks them by video."""
    model: Any = tiny("gemma4").model
    places = torch.cartesian_prod(torch.arange(4), torch.arange(8)).flip(1).expand(5, -1, -1)
    arguments: dict[str, Any] = {"pixel_values_videos": torch.rand(5, 32, 48), "video_position_ids": places}
    if version == "flat":
        arguments["num_frames_per_video"] = torch.tensor([2, 3])
    else:
        arguments = {key: value[:4].unflatten(0, (2, 2)) for key, value in arguments.items()}
    adapter, call = adapter_of("gemma4"), VisionCall("video", arguments, None, ())
    images = adapter.images(model, call)
    assert [image.grid for image in images] == ([(2, 2, 4), (3, 2, 4)] if version == "flat" else [(2, 2, 4)] * 2)
    assert adapter.tower_rows is not None
    rows = adapter.tower_rows(model, call, images)
    assert [tuple(each.shape) for each in rows] == [(image.tokens, 4) for image in images]
    assert rows[0][0].tolist() == [0, 1, 8, 9]
    assert rows[1][0].tolist() == [64, 65, 72, 73]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", DECODERS)
def test_keeping_everything_changes_no_bit(name: str, site: str) -> None:
    assert_keeping_everything_changes_no_bit(name, site)


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", [f"{name}/eager" for name in DECODERS])
def test_keeping_everything_changes_no_bit_in_eager(name: str, site: str) -> None:
    assert_keeping_everything_changes_no_bit(name, site)


@pytest.mark.parametrize("recipe", REMOVALS)
@pytest.mark.parametrize("name", DECODERS)
def test_removal_is_masking(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", REMOVALS)
@pytest.mark.parametrize("name", [f"{name}/eager" for name in DECODERS])
def test_removal_is_masking_in_eager(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "gemma4", "gemma4-shared", "paligemma"])
def test_beams(name: str) -> None:
    assert_removal_is_masking(name, "stages", num_beams=3)


@pytest.mark.parametrize("recipe", SHARED)
@pytest.mark.parametrize("name", ["gemma4-shared", pytest.param("gemma4-shared/eager", marks=pytest.mark.slow)])
def test_what_a_producer_has_stored_stays_visible_to_those_that_share_it(name: str, recipe: str) -> None:
    assert_removal_is_masking(name, SHARED[recipe])


@pytest.mark.parametrize("recipe", ["drop_between", "drop_and_kv"])
def test_sharing_layers_are_given_a_mask_where_keys_have_no_query(recipe: str) -> None:
    """An unpadded prompt has no mask, but no kernel aligns fewer queries than keys by itself."""
    made = tiny_gemma4(window=4096, per_layer=8, shared=2, layer_types=("sliding_attention", "full_attention") * 3)
    model, inputs = made.model, made.make_inputs((2,), seed=SEED)
    with vtprune.prune(model, {"stages": SHARED[recipe]}) as run:
        logits, report = model(**inputs).logits, run.report
    kept = survivors(report, inputs)
    with reference(model, report, inputs["input_ids"].shape[1]):
        assert distance(logits[kept], model(**inputs).logits[kept]) < TOLERANCE
    assert distance(logits[kept], model(**inputs).logits[kept]) > POWER


def test_sharing_layers_hold_no_cache_of_their_own() -> None:
    model, (inputs, _, _) = tiny("gemma4-shared").model, plain("gemma4-shared")
    with vtprune.observe(model) as run:
        generate(model, inputs, 2)
        report = run.report
    assert [len(heads) for heads in report.kv_tokens[0]] == [2, 1, 2, 1, 0, 0]
    per_token = 2 * 16 * 2 * 4 + 1 * 32 * 2 * 4
    tokens = inputs["input_ids"].numel()
    window = len(inputs["input_ids"]) * 11
    assert report.kv_bytes == report.kv_bytes_full == 2 * (window + tokens) * per_token // 2


@pytest.mark.parametrize("logits_to_keep", [1, 7])
def test_the_models_own_cut_of_queries_is_followed(logits_to_keep: int) -> None:
    """Gemma4 computes only the rows whose logits are wanted in the layers that share keys (since transformers 5.2x);
    the last of them may themselves be vision tokens that were dropped."""
    model = tiny("gemma4-shared/eager").model
    inputs = tiny("gemma4-shared/eager").make_inputs((1, 2), seed=SEED, text=(2, 2))
    for budget, stage in ((1.0, 2), (0.4, 1), (0.4, 3)):
        stages = [{"site": f"llm.layers[{stage}]", "scorer": "random", "budget": budget}]
        with vtprune.prune(model, {"stages": stages}):
            full = model(**inputs).logits
            cut = model(**inputs, logits_to_keep=logits_to_keep).logits
        assert cut.shape[1] == logits_to_keep
        assert distance(cut, full[:, -logits_to_keep:]) < TOLERANCE


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["paligemma", "paligemma2", "gemma3", "gemma4-bidirectional"])
def test_recipes_run_by_name(name: str, recipe: str) -> None:
    assert_recipe_runs(name, recipe)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != "plphp"])
def test_recipes_run_where_layers_share_keys(recipe: str) -> None:
    assert_recipe_runs("gemma4-shared", recipe)


@pytest.mark.parametrize("name", PLAIN)
def test_samples_are_independent(name: str) -> None:
    assert_samples_are_independent(name)


def test_stages_without_effect_are_refused() -> None:
    drop = {"site": "llm.layers[4]", "scorer": "random", "budget": 0.5}
    assert_refused("gemma4-shared", drop, "layer 4", "layer 2 has stored", "has an effect is 3")
    evict = {"site": "llm.layers[0:].kv", "scorer": "random", "budget": 0.5}
    assert_refused("gemma4-shared", evict, "attends to the keys and values of layer 2", "site: llm.layers[0,1,2,3].kv")
    evict = {"site": "llm.layers[-1].kv", "scorer": "random", "budget": 0.5}
    assert_refused("gemma4-shared", evict, "attends to the keys and values of layer 3", "use llm.layers[3].kv")
    late = {"site": "llm.layers[3]", "scorer": "random", "budget": 0.5, "positions": "reindex"}
    assert_refused("gemma4-shared", late, "re-indexed", "positions: retain")


@pytest.mark.parametrize("name", ["gemma4-shared", "lfm2_vl"])
def test_a_budget_of_bytes_is_refused_where_layers_cache_unequally(name: str) -> None:
    stage = {"site": "projector.output", "scorer": "random", "budget": {"kv_bytes_ratio": 0.5}}
    assert_refused(name, stage, "kv_bytes_ratio=0.5", "use keep_ratio")
    with vtprune.prune(tiny("gemma3").model, {"stages": [stage]}):
        pass


def test_flash_kernels_are_refused_where_keys_have_no_query() -> None:
    recipe = Recipe.load({"stages": [{"site": "llm.layers[3]", "scorer": "random", "budget": 0.5}]})
    with vtprune.prune(tiny("gemma4-shared").model, recipe) as run:
        kinds = layer_kinds(run._engine.parts)
    assert not list(site_faults(recipe.stages[0], (2,), kinds, flash=True))
    assert "sdpa" in next(site_faults(recipe.stages[0], (3,), kinds, flash=True))


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_reindexing_where_layers_have_a_rotary_embedding_each(name: str) -> None:
    """Without windows and bidirectional images, a re-indexed prompt is the shorter prompt."""
    made = tiny_gemma3(window=4096) if name == "gemma3" else tiny_gemma4(window=4096)
    model: Any = made.model
    inputs = made.make_inputs((2,), seed=SEED)
    inputs.pop("token_type_ids", None)
    stages = [{"site": "projector.output", "scorer": "random", "budget": 0.4, "positions": "reindex"}]
    embeddings: list[Tensor] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: embeddings.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with hook, vtprune.prune(model, {"stages": stages}) as run:
        logits, report = model(**inputs).logits, run.report
    kept = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    kept[report.layouts[0].positions] = False
    kept[report.layouts[0].positions[report.kept()]] = True
    expected = model(inputs_embeds=embeddings[0][:, kept]).logits
    assert distance(logits[:, kept], expected) < TOLERANCE
    with vtprune.prune(model, {"stages": [{**stages[0], "positions": "retain"}]}):
        assert distance(model(**inputs).logits[:, kept], expected) > 0.01


def test_variants_differ_in_what_they_are_there_for() -> None:
    kinds = {name: vtprune.prune(tiny(name).model, "fastv")._engine.plan.kinds for name in ("gemma4", "gemma4-shared")}
    assert [kind.kv_heads for kind in kinds["gemma4"]] == [2, 1, 2, 1]
    assert [kind.producer for kind in kinds["gemma4-shared"]] == [0, 1, 2, 3, 2, 3]
    assert variant("gemma4-layer-inputs").make().model.config.text_config.hidden_size_per_layer_input == 8
    one, two = (tiny(name).make_inputs(BATCH, seed=SEED) for name in ("gemma4", "gemma4-bidirectional"))
    assert distance(tiny("gemma4").model(**one).logits, tiny("gemma4-bidirectional").model(**two).logits) > 0.1


@pytest.mark.parametrize("name", ["gemma4-layer-inputs", "gemma3"])
def test_gradient_checkpointing_repeats_what_a_layer_was_given(name: str) -> None:
    """Also the inputs that Gemma 4 hands to every layer by position."""
    model: Any = tiny(name).model
    inputs = tiny(name).make_inputs((1, 2), seed=SEED)
    weight = model.get_decoder().layers[2].mlp.down_proj.weight
    stages = [{"site": "llm.layers[1]", "scorer": "random", "budget": 0.4}]
    found = []
    for checkpointing in (False, True):
        weight.requires_grad_(True)
        try:
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.train()
            with torch.enable_grad(), vtprune.prune(model, {"stages": stages}):
                logits = model(**inputs, use_cache=False).logits
                found.append((logits.detach(), torch.autograd.grad(logits.square().sum(), weight)[0]))
        finally:
            model.gradient_checkpointing_disable()
            model.eval()
            weight.requires_grad_(False)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].abs().max() > 0.01
    torch.testing.assert_close(found[0][1], found[1][1])
