"""The ways in which people call a model, and the mistakes they make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtprune
from tests.robustness.scenes import DROP, EVICT, LAYERS, STAGES, logits, recipe, reference_of, tokens
from vtprune.core.errors import NoVisionTokensError, UnsupportedModeError, UnsupportedModelError
from vtprune.testing.models import IMAGE, Tiny, tiny_llava, tiny_qwen2_5_vl, vision_mask
from vtprune.testing.reference import greedy_steps

DROPS = ["input", "drop"]


@pytest.mark.parametrize("stages", DROPS)
def test_generating_without_a_cache(tiny_any: Tiny, stages: str) -> None:
    inputs = tiny_any.make_inputs((1, 2))
    with vtprune.prune(tiny_any.model, recipe(*STAGES[stages])) as run:
        cached = tokens(tiny_any.model, inputs)
        kept = [run.report.kept(sample=sample) for sample in range(2)]
        assert torch.equal(tokens(tiny_any.model, inputs, use_cache=False), cached)
    assert all([report.kept(sample=sample) for sample in range(2)] == kept for report in run.reports)


@pytest.mark.parametrize("how", ["forward", "generate"])
def test_evicting_without_a_cache_is_refused(tiny: Tiny, how: str) -> None:
    inputs = tiny.make_inputs((1,))
    with (
        vtprune.prune(tiny.model, recipe(EVICT)),
        pytest.raises(UnsupportedModeError, match=r"runs without one \(use_cache=False.*or use a stage at llm.layers"),
    ):
        logits(tiny.model, inputs, use_cache=False) if how == "forward" else tokens(tiny.model, inputs, use_cache=False)


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
def test_evicting_while_checkpointing_is_refused(build: Any) -> None:
    tiny = build.__wrapped__()
    tiny.model.train()
    tiny.model.gradient_checkpointing_enable()
    from transformers import DynamicCache

    with (
        vtprune.prune(tiny.model, recipe(EVICT)),
        pytest.raises(UnsupportedModeError, match="gradient checkpointing"),
    ):
        tiny.model(**tiny.make_inputs((1,)), past_key_values=DynamicCache(), use_cache=True)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_forward_stand_where_the_tokens_stood(tiny_any: Tiny, side: str, stages: str) -> None:
    inputs = tiny_any.make_inputs((1, 2, 0, 1), side=side)
    with vtprune.prune(tiny_any.model, recipe(*STAGES[stages])) as run:
        pruned = logits(tiny_any.model, inputs)
    with reference_of(tiny_any.model, run.report, inputs) as reference:
        expected = logits(tiny_any.model, inputs)
    kept = reference.hide.get(LAYERS - 1, torch.ones_like(vision_mask(inputs))) & inputs["attention_mask"].bool()
    assert pruned.shape == expected.shape
    torch.testing.assert_close(pruned[kept], expected[kept], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stages", STAGES)
def test_hidden_states_can_be_asked_for(tiny_any: Tiny, stages: str) -> None:
    inputs = tiny_any.make_inputs((1, 2))
    with vtprune.prune(tiny_any.model, recipe(*STAGES[stages])) as run:
        plain = logits(tiny_any.model, inputs)
        with torch.no_grad():
            output = tiny_any.model(**inputs, output_hidden_states=True)
    assert torch.equal(output.logits, plain)
    assert len(output.hidden_states) == LAYERS + 1
    text = run.report.text_tokens
    widths = [
        max(count[layer] + text[i] for i, count in enumerate(run.report.vision_tokens)) for layer in range(LAYERS)
    ]
    seen = [states.shape[1] for states in output.hidden_states]
    assert seen[2:LAYERS] == [width if stages != "evict" else inputs["input_ids"].shape[1] for width in widths[2:]]


def embedded(tiny: Tiny, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    rest = {name: tensor for name, tensor in inputs.items() if name not in ("input_ids", "mm_token_type_ids")}
    return {**rest, "inputs_embeds": tiny.model.get_input_embeddings()(inputs["input_ids"]).detach()}


@pytest.mark.parametrize("stages", STAGES)
def test_embeddings_in_place_of_ids(stages: str) -> None:
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1, 2))
    stage = [{**one, "scorer": "attention"} if one["site"] == "llm.layers[1]" else one for one in STAGES[stages]]
    stage = [{**one, "scorer": "uniform_grid"} if one["site"] == "projector.output" else one for one in stage]
    with vtprune.prune(tiny.model, recipe(*stage)) as run:
        expected = tokens(tiny.model, inputs)
        with torch.no_grad():
            seen = tiny.model.generate(**embedded(tiny, inputs), max_new_tokens=6, do_sample=False)
            torch.testing.assert_close(tiny.model(**embedded(tiny, inputs)).logits, logits(tiny.model, inputs))
    assert torch.equal(seen, expected)
    assert run.reports[0].kept(sample=1) == run.reports[1].kept(sample=1)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
def test_bfloat16(build: Any, attention: Any, stages: str) -> None:
    tiny = build.__wrapped__(attention)
    tiny.model.to(torch.bfloat16)
    inputs = tiny.make_inputs((1, 2, 0, 1))
    with vtprune.prune(tiny.model, recipe(*STAGES[stages])) as run:
        pruned = greedy_steps(tiny.model, inputs, 3)
    with reference_of(tiny.model, run.report, inputs):
        expected = greedy_steps(tiny.model, inputs, 1)
    plain = greedy_steps(tiny.model, inputs, 1)
    assert torch.stack(pruned.logits).isfinite().all()
    error = (pruned.prefill - expected.prefill).abs().max().float()
    assert error < 0.1
    if stages != "evict":
        assert error < (plain.prefill - expected.prefill).abs().max() / 3


@pytest.mark.parametrize("stages", STAGES)
def test_beams_keep_what_each_sample_keeps(tiny: Tiny, stages: str) -> None:
    inputs = tiny.make_inputs((1, 1))
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        with vtprune.prune(tiny.model, recipe(*STAGES[stages])) as run:
            pruned = tiny.model.generate(**inputs, **options)
        with reference_of(tiny.model, run.report, inputs):
            expected = tiny.model.generate(**inputs, **options)
    assert torch.equal(pruned, expected)
    assert len(run.report.layouts) == 2


def test_several_sequences_of_one_prompt(tiny: Tiny) -> None:
    inputs = tiny.make_inputs((1, 1))
    with vtprune.prune(tiny.model, recipe(DROP)) as run, torch.no_grad():
        torch.manual_seed(0)
        tiny.model.generate(**inputs, do_sample=True, num_return_sequences=3, max_new_tokens=4)
        alone = tokens(tiny.model, inputs)
    assert len(alone) == 2
    first, second = run.reports
    assert [first.kept(sample=i) for i in range(2)] == [second.kept(sample=i) for i in range(2)]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_batch_without_any_image_is_refused(tiny: Tiny) -> None:
    with vtprune.prune(tiny.model, recipe(DROP)) as run:
        for call in (tokens, logits):
            with pytest.raises(NoVisionTokensError, match="nothing to prune; was the image left out of the processor"):
                call(tiny.model, tiny.make_inputs((0, 0)))
        tokens(tiny.model, tiny.make_inputs((1,)))
    assert len(run.reports) == 1


@pytest.mark.parametrize("call", [tokens, logits])
@pytest.mark.parametrize("earlier", [False, True])
def test_placeholders_without_pixels_are_refused(tiny: Tiny, call: Any, earlier: bool) -> None:
    """Also after a prompt that had its pixels: another prompt's images must not be taken for this one's."""
    inputs = tiny.make_inputs((1,))
    bare = {name: tensor for name, tensor in inputs.items() if name not in ("pixel_values", "image_grid_thw")}
    with vtprune.prune(tiny.model, recipe(DROP)):
        if earlier:
            call(tiny.model, inputs)
        with pytest.raises(
            UnsupportedModeError, match=r"vision tokens, but the vision tower made 0.*pass pixel values"
        ):
            call(tiny.model, bare)
        call(tiny.model, inputs)


@pytest.mark.parametrize("call", [tokens, logits])
@pytest.mark.parametrize("change", ["more", "fewer"])
def test_the_wrong_number_of_images_is_the_models_error_and_is_survived(tiny: Tiny, call: Any, change: str) -> None:
    good = tiny.make_inputs((2,), grids=None if tiny.name.startswith("llava") else [(1, 8, 8)] * 2)
    bad = dict(good)
    if change == "fewer":
        half = len(good["pixel_values"]) // 2
        bad["pixel_values"] = good["pixel_values"][:half]
        if "image_grid_thw" in bad:
            bad["image_grid_thw"] = bad["image_grid_thw"][:1]
    else:
        bad["pixel_values"] = torch.cat([good["pixel_values"]] * 2)
        if "image_grid_thw" in bad:
            bad["image_grid_thw"] = torch.cat([bad["image_grid_thw"]] * 2)
    with pytest.raises((ValueError, RuntimeError, IndexError, StopIteration)) as native:
        call(tiny.model, bad)
    with vtprune.prune(tiny.model, recipe(DROP)) as run:
        expected = call(tiny.model, good)
        with pytest.raises(native.type):
            call(tiny.model, bad)
        assert torch.equal(call(tiny.model, good), expected)
    assert len(run.reports) == 2


def test_wrapped_and_unsupported_models_are_told_apart() -> None:
    class PeftModel(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.base_model = inner

    with pytest.raises(
        UnsupportedModelError, match=r"PeftModel.*If PeftModel wraps a supported model.*pass the wrapped"
    ):
        vtprune.prune(PeftModel(tiny_llava().model), recipe(DROP))


def test_a_text_only_model_lists_the_families() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            pad_token_id=None,
        )
    )
    with pytest.raises(UnsupportedModelError) as raised:
        vtprune.prune(model, recipe(DROP))
    message = str(raised.value)
    assert "no adapter for model class LlamaForCausalLM" in message
    assert "LlavaForConditionalGeneration" in message
    assert "Qwen2_5_VLForConditionalGeneration" in message


def test_a_subclass_of_a_supported_model_is_supported() -> None:
    tiny = tiny_llava.__wrapped__()
    tiny.model.__class__ = type("OwnLlava", (type(tiny.model),), {})
    with vtprune.prune(tiny.model, recipe(DROP)) as run:
        tokens(tiny.model, tiny.make_inputs((1,)))
    assert run.report.model == "OwnLlava"


def test_inputs_are_not_changed(tiny: Tiny) -> None:
    inputs = tiny.make_inputs((1, 2))
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    with vtprune.prune(tiny.model, recipe(*STAGES["both"])):
        tokens(tiny.model, inputs)
    assert inputs.keys() == before.keys()
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    assert (inputs["input_ids"] == IMAGE).any()
