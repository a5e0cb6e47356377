"""Features made before their prompt, direct calls of a model's parts, and settings changed while a recipe is active."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.exactness.helpers import distance
from vtprune.core.errors import NoVisionTokensError, UnsupportedModeError
from vtprune.testing.models import Inputs, Tiny, tiny_llava
from vtprune.testing.models.families import variant

STAGES = {
    "cls": [{"site": "projector.output", "scorer": "cls_attention", "budget": 0.3}],
    "tower": [{"site": "vision.layers[1]", "scorer": {"name": "cls_attention", "layers": [0]}, "budget": 0.3}],
    "random": [{"site": "projector.output", "scorer": "random", "budget": 0.3}],
}
ACCEPTS = "mm_encoder_outputs" in inspect.signature(tiny_llava().model.forward).parameters
encoded_outside = pytest.mark.skipif(not ACCEPTS, reason="this transformers takes no features made before")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def two_prompts(tiny: Tiny) -> tuple[Inputs, Inputs]:
    return tiny.make_inputs((1,), seed=4), tiny.make_inputs((1,), seed=9)


def asked(model: Any, inputs: Inputs, features: Any) -> Tensor:
    made: Tensor = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        mm_encoder_outputs={"image": features},
    ).logits
    return made


@encoded_outside
@pytest.mark.parametrize("stages", STAGES)
def test_features_are_never_taken_for_those_of_another_prompt(stages: str) -> None:
    tiny = tiny_llava()
    first, second = two_prompts(tiny)
    outside = tiny.model.model.get_image_features(second["pixel_values"])
    with vtprune.prune(tiny.model, {"stages": STAGES[stages]}) as run:
        tiny.model(**first)
        with pytest.raises(UnsupportedModeError, match="pass pixel values in the same call"):
            asked(tiny.model, second, outside)
        tiny.model(**second)
        assert len(run.reports) == 2


@encoded_outside
@pytest.mark.parametrize("stages", STAGES)
def test_features_made_inside_keep_their_own_image(stages: str) -> None:
    """Two images are encoded, then asked about in the other order, one of them twice."""
    tiny = tiny_llava()
    first, second = two_prompts(tiny)
    with vtprune.prune(tiny.model, {"stages": STAGES[stages]}) as run:
        expected = {}
        for name, inputs in (("first", first), ("second", second)):
            expected[name] = tiny.model(**inputs).logits, run.report.kept(0, 0)
        made = {
            name: tiny.model.model.get_image_features(inputs["pixel_values"])
            for name, inputs in (("first", first), ("second", second))
        }
        for name, inputs in (("second", second), ("first", first), ("second", second)):
            logits = asked(tiny.model, inputs, made[name])
            assert distance(logits, expected[name][0]) < 1e-5, name
            assert torch.equal(torch.as_tensor(run.report.kept(0, 0)), torch.as_tensor(expected[name][1]))
    assert distance(expected["first"][0][:, -1], expected["second"][0][:, -1]) > 0.1


def test_a_direct_call_of_the_language_model_is_no_prompt_of_ours() -> None:
    tiny = tiny_llava()
    inputs, _ = two_prompts(tiny)
    with vtprune.prune(tiny.model, {"stages": STAGES["random"]}) as run:
        tiny.model(**inputs)
        embeddings = torch.randn(*inputs["input_ids"].shape, 64)
        with pytest.raises(NoVisionTokensError):
            tiny.model.model.language_model(inputs_embeds=embeddings)
        assert len(run.reports) == 1


def test_features_as_a_tuple() -> None:
    tiny = tiny_llava()
    inputs, _ = two_prompts(tiny)
    expected = tiny.model.model.get_image_features(inputs["pixel_values"], return_dict=False)
    with vtprune.prune(tiny.model, {"stages": STAGES["cls"]}):
        found = tiny.model.model.get_image_features(inputs["pixel_values"], return_dict=False)
    assert isinstance(found, tuple)
    assert len(found) == len(expected)
    assert torch.equal(found[0], expected[0])


def test_shared_images_leave_nothing_out_of_step() -> None:
    tiny = tiny_llava()
    pixels = tiny.make_inputs((1, 1), seed=4)["pixel_values"][[0, 1, 0]]
    with vtprune.prune(tiny.model, {"stages": STAGES["cls"]}, share_images=True):
        output = tiny.model.model.get_image_features(pixels)
    assert {len(value) for value in (output.last_hidden_state, output.pooler_output)} == {3}
    assert torch.equal(output.last_hidden_state[0], output.last_hidden_state[2])


def test_images_that_cannot_be_shared_are_said() -> None:
    tiny = variant("llava_onevision").make()
    inputs = tiny.make_inputs((2,), seed=4)
    with (
        vtprune.prune(tiny.model, {"stages": STAGES["random"]}, share_images=True),
        pytest.warns(UserWarning, match="share_images: adapter 'llava_onevision' cannot tell which images"),
    ):
        tiny.model(**inputs)


@pytest.mark.parametrize("stages", [*STAGES, "attention"])
def test_an_implementation_changed_inside_is_refused_and_kept(stages: str) -> None:
    reading = [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.3}]
    tiny = tiny_llava("sdpa")
    inputs, _ = two_prompts(tiny)
    try:
        with vtprune.prune(tiny.model, {"stages": STAGES.get(stages, reading)}):
            tiny.model(**inputs)
            tiny.model.set_attn_implementation("eager")
            with pytest.raises(UnsupportedModeError, match=r"was changed .*inside the with-block"):
                tiny.model(**inputs)
            assert tiny.model.model.language_model.config._attn_implementation == "eager"
        assert tiny.model.model.language_model.config._attn_implementation == "eager"
    finally:
        tiny.model.set_attn_implementation("sdpa")


def test_an_implementation_that_cannot_be_served_is_found_on_entering() -> None:
    tiny = tiny_llava("sdpa")
    run = vtprune.prune(tiny.model, {"stages": STAGES["random"]})
    try:
        tiny.model.set_attn_implementation("flex_attention")
        with pytest.raises(UnsupportedModeError, match="'flex_attention' of the language model"), run:
            pass
    finally:
        tiny.model.set_attn_implementation("sdpa")


def test_guidance_is_refused_by_name() -> None:
    tiny = tiny_llava()
    inputs, _ = two_prompts(tiny)
    with (
        vtprune.prune(tiny.model, {"stages": STAGES["random"]}),
        pytest.raises(UnsupportedModeError, match=r"guidance_scale=1\.5"),
    ):
        tiny.model.generate(**inputs, max_new_tokens=2, guidance_scale=1.5)
