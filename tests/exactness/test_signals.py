"""What components see equals what the eager model computes: attention rows, keys, values, queries, the tower."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests.exactness.helpers import BATCHES, Stages, distance, family, inputs_of, matrix, reference, spied, survivors
from tests.exactness.tower import image_features, windows_of
from vtprune.core.signals import Need
from vtprune.testing.models import QWEN_MERGE, Inputs, vision_mask

CLOSE = 1e-6
ACROSS_KERNELS = 5e-6  # sdpa and eager have rounded the layers before differently
QUERIES = ("last", "text_after_vision", "text", "received")
CHOSEN = ("llava-sdpa", "llava-eager", "window-sdpa", "qwen-sdpa", "qwen-eager")
SITES = {"llm.layers[2]": 1, "llm.layers[2].kv": 2}
"""Site and the layer that it reads when the scorer names none."""
DROP: Stages = [{"site": "llm.layers[1]", "scorer": "random", "budget": 0.4}]
PROJECTOR: Stages = [{"site": "projector.output", "scorer": "random", "budget": 0.4}]


def eager_attentions(name: str, inputs: Inputs) -> tuple[Tensor, ...]:
    """Per layer ``[batch, head, token, token]``."""
    return family(name.replace("sdpa", "eager")).model(**inputs, output_attentions=True).attentions


def query_rows(inputs: Inputs, sample: int, query: str, alive: Tensor) -> list[int]:
    """Positions of a query's rows, by a loop over the prompt. alive: bool ``[token]``."""
    vision, real = vision_mask(inputs)[sample], inputs["attention_mask"][sample].bool()
    tokens = [at for at in range(len(real)) if real[at] and alive[at]]
    last_image = max((at for at in range(len(real)) if vision[at]), default=-1)
    text = [at for at in tokens if not vision[at]]
    after = [at for at in text if at > last_image]
    return {"last": tokens[-1:], "received": tokens, "text": text, "text_after_vision": after or tokens[-1:]}[query]


@pytest.mark.parametrize(
    ("name", "batch", "site"), matrix(CHOSEN, ("single", "padded"), SITES, slow=lambda n, b, s: b == "single")
)
def test_attention_rows_are_the_eager_models(name: str, batch: str, site: str) -> None:
    tiny, inputs = family(name), inputs_of(name, batch)
    needs = [Need("attention", query, layer) for query in QUERIES for layer in (None, 0)]
    seen, report = spied(tiny.model, inputs, site, *needs)
    attentions = eager_attentions(name, inputs)
    everything = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    for sample, layout in enumerate(report.layouts):
        for need in needs if layout.vision else []:
            layer = SITES[site] if need.layer is None else need.layer
            rows = query_rows(inputs, sample, str(need.query), everything)
            expected = attentions[layer][sample][:, rows].mean(1)[:, layout.positions]
            assert expected.max() > 1e-3
            assert distance(seen[sample][1][need], expected) < (CLOSE if "eager" in name else ACROSS_KERNELS)


@pytest.mark.parametrize(("name", "before"), matrix(CHOSEN, ("projector", "layer")))
def test_attention_rows_after_an_earlier_drop(name: str, before: str) -> None:
    """The softmax runs over what is left, and so does the mean over rows."""
    inputs = inputs_of(name, "padded")
    needs = [Need("attention", query) for query in QUERIES]
    site, layer = "llm.layers[3]", 2
    stages = DROP if before == "layer" else PROJECTOR
    seen, report = spied(family(name).model, inputs, site, *needs, before=stages)
    with reference(family(name.replace("sdpa", "eager")).model, report, inputs["input_ids"].shape[1]):
        attentions = eager_attentions(name, inputs)
    alive = survivors(report, inputs)
    for sample, layout in enumerate(report.layouts):
        kept = torch.tensor(report.kept(0, sample), dtype=torch.int64)
        assert seen[sample][0].tolist() == kept.tolist()
        for need in needs if layout.vision else []:
            rows = query_rows(inputs, sample, str(need.query), alive[sample])
            expected = attentions[layer][sample][:, rows].mean(1)[:, layout.positions[kept]]
            assert distance(seen[sample][1][need], expected) < (CLOSE if "eager" in name else ACROSS_KERNELS)


def kernel_calls(name: str, inputs: Inputs) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values that the unpruned model hands to PyTorch's kernel, per decoder layer."""
    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []

    def recorded(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append((query, key, value))
        return kernel(query, key, value, *args, **kwargs)

    with patch("torch.nn.functional.scaled_dot_product_attention", recorded):
        model = family(name).model
        model(**inputs)
    return calls[-len(model.get_decoder().layers) :]


@pytest.mark.parametrize(("name", "site"), matrix(("llava-sdpa", "window-sdpa", "qwen-sdpa"), SITES))
def test_keys_values_and_queries_are_the_kernels(name: str, site: str) -> None:
    inputs, needs = inputs_of(name, "padded"), [Need("keys"), Need("values"), Need("queries")]
    seen, report = spied(family(name).model, inputs, site, *needs)
    query, key, value = kernel_calls(name, inputs)[SITES[site]]
    groups = query.shape[1] // report.kv_heads
    if key.shape[1] == query.shape[1]:
        key, value = key[:, ::groups], value[:, ::groups]
    for sample, layout in enumerate(report.layouts):
        if layout.vision:
            keys, values, queries = (seen[sample][1][need] for need in needs)
            assert torch.equal(keys, key[sample][:, layout.positions])
            assert torch.equal(values, value[sample][:, layout.positions])
            assert torch.equal(queries, query[sample][:, layout.positions])


@pytest.mark.parametrize(("name", "batch"), matrix(("llava-sdpa", "llava-eager"), BATCHES))
def test_cls_attention_is_the_towers(name: str, batch: str) -> None:
    inputs = inputs_of(name, batch)
    needs = [Need("vision_attention", query, layer) for query in ("cls", "received") for layer in (-2, 0)]
    seen, report = spied(family(name).model, inputs, "projector.output", *needs)
    tower = family("llava-eager").model.model.vision_tower
    attentions = tower(inputs["pixel_values"], output_attentions=True).attentions
    first = 0
    for sample, count in enumerate(BATCHES[batch]):
        for need in needs if count else []:
            rows = attentions[need.layer][first : first + count, :, :, 1:]
            picked = rows[:, :, 0] if need.query == "cls" else rows[:, :, 1:].mean(2)
            expected = torch.cat(list(picked), dim=-1)
            assert expected.std() > 1e-3
            assert distance(seen[sample][1][need], expected) < CLOSE
        first += count
    assert len(report.layouts) == len(BATCHES[batch])


def tower_softmaxes(inputs: Inputs) -> list[Tensor]:
    """Attention weights ``[head, patch, patch]`` of every window that Qwen2.5-VL's eager tower computes, in order."""
    softmax, calls = torch.nn.functional.softmax, []

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        result = softmax(*args, **kwargs)
        calls.append(result[0])
        return result

    visual = family("qwen-eager").model.model.visual
    with patch("torch.nn.functional.softmax", recorded):
        visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    return calls


@pytest.mark.parametrize(("name", "batch"), matrix(("qwen-sdpa", "qwen-eager"), BATCHES))
def test_received_attention_is_the_windowed_towers(name: str, batch: str) -> None:
    """A token's value is the mean over its four patches of what the rows of its window pay to them, on average."""
    inputs = inputs_of(name, batch)
    model = family(name).model
    depth = model.config.vision_config.depth
    needs = [Need("vision_attention", "received", layer) for layer in (0, -2, -1)]
    seen, _ = spied(model, inputs, "projector.output", *needs)
    images = windows_of(model, inputs)
    windows = [len(window) * QWEN_MERGE**2 for image in images for window in image]
    whole = [sum(map(len, image)) * QWEN_MERGE**2 for image in images]
    local = [layer not in model.config.vision_config.fullatt_block_indexes for layer in range(depth)]
    calls = iter(tower_softmaxes(inputs))
    layers = []
    for layer in range(depth):
        weights = [next(calls) for _ in (windows if local[layer] else whole)]
        assert [len(weight[0]) for weight in weights] == (windows if local[layer] else whole)
        patches = torch.cat([weight.mean(1) for weight in weights], dim=-1)
        layers.append(patches.unflatten(-1, (-1, QWEN_MERGE**2)).mean(-1))
    first = unit = 0
    for sample, count in enumerate(BATCHES[batch]):
        expected: list[list[Tensor]] = [[] for _ in needs]
        for image in images[first : first + count]:
            order = [index for window in image for index in window]
            for slot, need in enumerate(needs):
                raster = torch.empty(layers[0].shape[0], len(order))
                for at, index in enumerate(order):
                    raster[:, index] = layers[need.layer or 0][:, unit + at]
                expected[slot].append(raster)
            unit += len(order)
        for slot, need in enumerate(needs if count else []):
            assert distance(seen[sample][1][need], torch.cat(expected[slot], -1)) < CLOSE
        first += count


@pytest.mark.parametrize(("name", "batch"), matrix(("llava-sdpa", "qwen-sdpa"), BATCHES))
def test_features_are_what_the_site_carries(name: str, batch: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    features = torch.cat(image_features(model, inputs))
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    units = features.unflatten(-1, (-1, model.config.vision_config.hidden_size)).mean(1)
    counts = [int(row.sum()) for row in vision_mask(inputs)]
    for site, layer in (("vision.output", None), ("projector.output", 0), ("llm.layers[2]", 2)):
        seen, report = spied(model, inputs, site, Need("features"))
        for sample, layout in enumerate(report.layouts):
            if not layout.vision:
                continue
            if layer is None:
                expected = units[sum(counts[:sample]) : sum(counts[: sample + 1])]
            else:
                expected = hidden[layer][sample, layout.positions]
            assert distance(seen[sample][1][Need("features")], expected) < CLOSE
