"""Caches and kernels that cannot be shortened are refused, and the message says what to do; sliding ones are served."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer, EncoderDecoderCache
from transformers.modeling_utils import AttentionInterface

import vtprune
from tests.robustness.scenes import DROP, EVICT, STAGES, attribute, recipe, reference_of, unchanged
from vtprune.core.errors import BindingError, UnsupportedModeError
from vtprune.testing.models import Tiny, tiny_llava
from vtprune.testing.reference import greedy_steps


def other_caches(tiny: Tiny) -> dict[str, Any]:
    text = tiny.model.config.get_text_config()
    return {
        "StaticCache": StaticCache(config=text, max_cache_len=128),
        "offloaded cache": DynamicCache(config=text, offloading=True),
        "EncoderDecoderCache": EncoderDecoderCache(DynamicCache(), DynamicCache()),
    }


@pytest.mark.parametrize("kind", ["StaticCache", "offloaded cache", "EncoderDecoderCache"])
@pytest.mark.parametrize("stages", ["drop", "evict"])
def test_a_cache_object_that_cannot_be_shortened_is_refused(tiny: Tiny, stages: str, kind: str) -> None:
    cache = other_caches(tiny)[kind]
    with (
        unchanged(tiny.model),
        vtprune.prune(tiny.model, recipe(*STAGES[stages])),
        pytest.raises(UnsupportedModeError, match=rf"{kind} cannot be pruned.*use the default dynamic cache"),
    ):
        tiny.model(**tiny.make_inputs((1,)), past_key_values=cache)


def test_a_foreign_cache_layer_is_refused(tiny: Tiny) -> None:
    class Quantised(DynamicSlidingWindowLayer):
        pass

    cache = DynamicCache(config=tiny.model.config.get_text_config())
    cache.layers[2] = Quantised(4)
    with (
        vtprune.prune(tiny.model, recipe(DROP)),
        pytest.raises(UnsupportedModeError, match="layer 2 of the cache is a Quantised, which cannot be pruned"),
    ):
        tiny.model(**tiny.make_inputs((1,)), past_key_values=cache)


@pytest.mark.parametrize("how", ["argument", "config argument", "model's config"])
@pytest.mark.parametrize("name", ["static", "offloaded", "quantized"])
def test_a_cache_implementation_is_refused_before_anything_runs(tiny: Tiny, name: str, how: str) -> None:
    model, options = tiny.model, {}
    if how == "argument":
        options["cache_implementation"] = name
    elif how == "config argument":
        options["generation_config"] = GenerationConfig(cache_implementation=name, max_new_tokens=2)
    inputs = tiny.make_inputs((1,))
    value = name if how == "model's config" else None
    with (
        attribute(model.generation_config, "cache_implementation", value),
        vtprune.prune(model, recipe(DROP)) as run,
        pytest.raises(
            UnsupportedModeError, match=f"cache_implementation='{name}': only the dynamic cache can be shortened"
        ),
    ):
        model.generate(**inputs, **options)
    assert run.reports == []


@pytest.mark.parametrize("how", ["argument", "config argument"])
def test_chunked_prefill_is_refused(tiny: Tiny, how: str) -> None:
    options: dict[str, Any] = {"prefill_chunk_size": 4}
    if how == "config argument":
        options = {"generation_config": GenerationConfig(max_new_tokens=2, **options)}
    with (
        vtprune.prune(tiny.model, recipe(DROP)),
        pytest.raises(
            UnsupportedModeError, match="prefill_chunk_size=4: a prompt that arrives in chunks cannot be pruned"
        ),
    ):
        tiny.model.generate(**tiny.make_inputs((1,)), **options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [4096, 12])
@pytest.mark.parametrize("stages", STAGES)
def test_a_sliding_window_is_served(stages: str, window: int, attention: Any) -> None:
    """4096 is the default of Mistral's configuration, so its caches are sliding even where nobody asked for it."""
    tiny = tiny_llava(attention, "mistral", sliding_window=window)
    inputs = tiny.make_inputs((1, 2))
    with vtprune.prune(tiny.model, recipe(*STAGES[stages])) as run:
        pruned = greedy_steps(tiny.model, inputs, 12)
    with reference_of(tiny.model, run.report, inputs):
        expected = greedy_steps(tiny.model, inputs, 12)
    assert torch.equal(pruned.tokens, expected.tokens)
    torch.testing.assert_close(pruned.logits, expected.logits, rtol=0, atol=1e-5)


# -- attention implementations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [DROP, EVICT])
def test_flex_attention_is_refused_when_binding(tiny: Tiny, stage: dict[str, Any]) -> None:
    config = tiny.model.get_decoder().config
    with (
        attribute(config, "_attn_implementation_internal", "flex_attention"),
        pytest.raises(
            BindingError, match=r"'flex_attention' of the language model cannot be pruned exactly.*eager, sdpa"
        ),
    ):
        vtprune.prune(tiny.model, recipe(stage))


def test_an_attention_function_without_a_mask_function_is_refused_when_binding(tiny: Tiny) -> None:
    AttentionInterface.register("homemade", lambda *args, **kwargs: None)
    try:
        with (
            attribute(tiny.model.get_decoder().config, "_attn_implementation_internal", "homemade"),
            pytest.raises(BindingError, match=r"'homemade' of the language model.*set to one of eager, sdpa"),
        ):
            vtprune.prune(tiny.model, recipe(DROP))
    finally:
        del AttentionInterface._global_mapping["homemade"]


def test_the_tower_needs_a_known_kernel_only_where_its_attention_is_read(tiny: Tiny) -> None:
    reading = {"site": "vision.output", "scorer": {"name": "cls_attention", "query": "received"}, "budget": 0.5}
    tower = vtprune.prune(tiny.model, recipe(DROP))._engine.parts.vision_tower
    for name, message in {
        "flex_attention": "'flex_attention' of the vision tower",
        "flash_attention_2": "flash kernel",
    }.items():
        with attribute(tower.config, "_attn_implementation_internal", name):
            vtprune.prune(tiny.model, recipe(DROP))
            with pytest.raises(BindingError, match=message):
                vtprune.prune(tiny.model, recipe(reading))


def test_the_kernel_goes_by_another_name_only_while_a_prompt_is_probed(tiny: Tiny) -> None:
    decoder = tiny.model.get_decoder()
    names: list[str] = []
    watch = decoder.layers[0].register_forward_pre_hook(lambda *_: names.append(decoder.config._attn_implementation))
    try:
        with vtprune.prune(tiny.model, recipe({**DROP, "scorer": "random"})):
            tiny.model.generate(**tiny.make_inputs((1,)), max_new_tokens=3, do_sample=False)
        assert set(names) == {"sdpa"}
        names.clear()
        with vtprune.prune(tiny.model, recipe(DROP)):
            assert decoder.config._attn_implementation == "sdpa"
            tiny.model.generate(**tiny.make_inputs((1,)), max_new_tokens=3, do_sample=False)
        assert names == ["vtprune_sdpa", "sdpa", "sdpa"]
    finally:
        watch.remove()
