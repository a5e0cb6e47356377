"""The cache holds what was allocated, per layer, sample and KV head, after the prompt and while decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.exactness.helpers import (
    BATCHES,
    TOLERANCE,
    Stages,
    distance,
    family,
    generate,
    inputs_of,
    matrix,
    run,
    two_samples,
)
from tests.exactness.test_removal import RECIPES
from vtprune.testing.models import Inputs, tiny_llava, vision_mask

CHOSEN = (
    "layer",
    "range",
    "stages",
    "no_token",
    "kv",
    "kv_heads",
    "kv_ragged",
    "kv_table",
    "drop_then_kv",
    "programme",
)
CHOSEN_FAMILIES = ("llava-sdpa", "mistral-sdpa", "qwen-sdpa", "qwen-eager")


def lengths(cache: Any) -> Tensor:
    """int64 ``[layer, batch, kv_head]``."""
    return torch.stack([layer.lengths() for layer in cache.layers])


def expected_lengths(report: vtprune.Report, inputs: Inputs) -> Tensor:
    """Text plus what the events say was kept; layers that nothing touched hold the padding as well."""
    batch, width = inputs["input_ids"].shape
    held = torch.full((report.depth, batch, report.kv_heads), width)
    text = (inputs["attention_mask"].bool() & ~vision_mask(inputs)).sum(1)
    kept: dict[tuple[int, int], list[int]] = {}
    changed: set[int] = set()
    for event in report.events:
        is_kv = report.recipe.stages[event.stage].site.kind == "kv"
        layers = [event.layer] if is_kv else range(event.layer, report.depth)
        counts = [len(tokens) for tokens in event.kept]
        for layer in layers:
            kept[layer, event.sample] = counts * (report.kv_heads // len(counts))
            changed.add(layer)
    for layer in changed:
        for sample, layout in enumerate(report.layouts):
            counts = kept.get((layer, sample)) if layout.vision else [0] * report.kv_heads
            held[layer, sample] = text[sample] + torch.tensor(counts)
    return held


def slots_in_bytes(model: Any, slots: int) -> int:
    """Bytes of keys and values of that many (token, KV head) pairs in float32."""
    config = model.config.text_config
    return slots * 2 * 4 * (config.hidden_size // config.num_attention_heads)


@pytest.mark.parametrize(
    ("name", "batch", "recipe"),
    matrix(CHOSEN_FAMILIES, BATCHES, CHOSEN, slow=lambda name, batch, _: batch == "two_images" or name == "qwen-eager"),
)
def test_the_cache_is_as_long_as_allocated(name: str, batch: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    rows, width = inputs["input_ids"].shape
    attended = inputs["attention_mask"]
    with vtprune.prune(model, {"stages": RECIPES[recipe]}) as pruning:
        output = model(**inputs, use_cache=True)
        cache, report = output.past_key_values, pruning.report
        before, per_layer = lengths(cache), [layer.nbytes for layer in cache.layers]
        assert torch.equal(before, expected_lengths(report, inputs))
        assert cache.get_seq_length() == width
        assert report.kv_bytes == sum(per_layer)
        assert report.kv_bytes_full == slots_in_bytes(model, report.depth * rows * report.kv_heads * width)
        for step in range(1, 4):
            attended = torch.cat([attended, attended.new_ones(rows, 1)], 1)
            output = step_by_hand(name, cache, output.logits[:, -1:].argmax(-1), attended)
            assert torch.equal(lengths(cache), before + step)
            assert all(layer.get_seq_length() == width + step for layer in cache.layers)
            grown = [after.nbytes - now for after, now in zip(cache.layers, per_layer, strict=True)]
            assert grown == [slots_in_bytes(model, step * rows * report.kv_heads)] * report.depth


def step_by_hand(name: str, cache: Any, token: Tensor, attended: Tensor, rows: slice = slice(None)) -> Any:
    """Decode one token of some of the prompt's samples by calling the model with the cache."""
    model, at = family(name).model, attended.sum(1, keepdim=True) - 1
    if name.startswith("qwen"):
        at = (at + model.model.rope_deltas[rows]).expand(3, -1, -1)
    options = {"attention_mask": attended, "position_ids": at, "past_key_values": cache, "use_cache": True}
    return model(input_ids=token, **options)


@pytest.mark.parametrize(("name", "recipe"), matrix(CHOSEN_FAMILIES, ("layer", "kv_heads", "kv_ragged", "programme")))
def test_a_sample_taken_out_of_the_cache_decodes_as_before(name: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, "padded")
    attended = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)

    def prefilled() -> tuple[Any, Tensor]:
        output = model(**inputs, use_cache=True)
        return output.past_key_values, output.logits[:, -1:].argmax(-1)

    with vtprune.prune(model, {"stages": RECIPES[recipe]}):
        cache, token = prefilled()
        held = lengths(cache)
        expected = step_by_hand(name, cache, token, attended).logits
        for layer in cache.layers:
            layer.crop(-1)
        assert torch.equal(lengths(cache), held)
        assert distance(step_by_hand(name, cache, token, attended).logits, expected) < TOLERANCE
        for sample in range(len(expected)):
            cache, token = prefilled()
            cache.batch_select_indices(torch.tensor([sample]))
            assert torch.equal(lengths(cache), held[:, sample : sample + 1])
            own = slice(sample, sample + 1)
            alone = step_by_hand(name, cache, token[own], attended[own], own).logits
            assert distance(alone, expected[own]) < TOLERANCE


@pytest.mark.parametrize("name", CHOSEN_FAMILIES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("recipe", ["kv_heads", "kv_ragged", "kv_table"])
def test_evicted_layers_store_nothing_else(name: str, batch: str, recipe: str) -> None:
    """Every byte is a kept token's: no padding of the batch, none up to the longest head."""
    model, inputs = family(name).model, inputs_of(name, batch)
    with vtprune.prune(model, {"stages": RECIPES[recipe]}) as pruning:
        cache, report = model(**inputs, use_cache=True).past_key_values, pruning.report
        held = lengths(cache)
        for index in {event.layer for event in report.events}:
            layer = cache.layers[index]
            assert layer.nbytes == slots_in_bytes(model, int(held[index].sum()))
            stored = sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(layer))
            assert stored == layer.nbytes, "no view holds on to the full prompt"
            if held[index].unique().numel() > 1:
                assert layer.nbytes < slots_in_bytes(model, int(held[index].max()) * held[index].numel())
        if batch == "padded":
            assert any(held[event.layer].unique().numel() > 1 for event in report.events)


def tensors_of(layer: Any) -> list[Tensor]:
    packed = [] if layer.packed is None else [layer.packed.keys, layer.packed.values]
    return [layer.keys, layer.values, *packed]


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
def test_beams_hold_what_their_sample_keeps(name: str) -> None:
    tiny, inputs, beams, steps = family(name), two_samples(name), 3, 6
    for recipe in ("kv_ragged", "programme"):
        with vtprune.prune(tiny.model, {"stages": RECIPES[recipe]}) as pruning:
            options = {"max_new_tokens": steps, "num_beams": beams, "return_dict_in_generate": True}
            cache = tiny.model.generate(**inputs, **options).past_key_values
        expected = expected_lengths(pruning.report, inputs).repeat_interleave(beams, 1)
        assert torch.equal(lengths(cache), expected + steps - 1)


@pytest.mark.parametrize("recipe", ["layer", "stages", "kv_ragged", "programme", "reindexed"])
@pytest.mark.parametrize("batch", BATCHES)
def test_rope_deltas_are_the_unpruned_models(batch: str, recipe: str) -> None:
    model, inputs = family("qwen-sdpa").model, inputs_of("qwen-sdpa", batch)
    generate(model, inputs, 3)
    expected = model.model.rope_deltas.clone()
    assert bool((expected < 0).any())
    model.model.rope_deltas = None
    reindexed: Stages = [{**RECIPES["projector"][0], "positions": "reindex"}]
    run("qwen-sdpa", inputs, RECIPES.get(recipe, reindexed), 3)
    assert torch.equal(model.model.rope_deltas, expected)


@pytest.mark.parametrize("name", ["plphp", "fastv"])
def test_the_report_counts_what_a_sliding_layer_holds(name):
    window = 12
    tiny = tiny_llava(text="mistral", sliding_window=window)
    inputs = tiny.make_inputs(images=(2,))
    with vtprune.prune(tiny.model, name) as run, torch.no_grad():
        cache = tiny.model(**inputs, use_cache=True).past_key_values
        report, total = run.report, inputs["input_ids"].shape[1]
        held = [layer.slots(1, torch.device("cpu")) for layer in cache.layers]
    layout = report.layouts[0]
    for layer, slots in enumerate(held):
        at = slots.positions if slots.per_head else slots.positions[:, None].expand(-1, report.kv_heads, -1)
        seen = (at >= total - window + 1) & (slots.valid if slots.per_head else slots.valid[:, None])
        vision = torch.isin(at, layout.positions) & seen
        assert report.kv_tokens[0][layer] == vision[0].sum(-1).tolist()
    plain = tiny.model(**inputs, use_cache=True).past_key_values
    assert report.kv_bytes_full == sum(layer.keys.nbytes + layer.values.nbytes for layer in plain.layers)
