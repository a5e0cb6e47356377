"""What a study will cost, before anything runs. Rough, and meant to tell an hour from a week.

FLOPs are counted off the model's own modules (`vtprune.core.engine.cost`) for the first samples of a task: vision
tower, prefill and decoding to the longest answer the task allows. A stage counts as if it kept its budget from its
first layer on; windows in a vision tower count as global attention; what scorers and selectors do themselves is left
out. Wall time is known only from cells of the same model that have run already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn

from vtprune.core.adapter import Parts
from vtprune.core.budget import Budget
from vtprune.core.engine.cost import CostModel, module_flops_per_token, vision_flops
from vtprune.core.lookup import locate
from vtprune.core.recipe import Recipe
from vtprune.core.task import Sample
from vtprune.study.cell import Cell, ModelRef, Variant

if TYPE_CHECKING:
    from vtprune.study.store import Store


@dataclass(frozen=True)
class Workload:
    """One sample as the model sees it, averaged over a few.

    vision, text: tokens in the prompt; tower: FLOPs of vision tower and projector; new: tokens to generate at most.
    """

    vision: float
    text: float
    tower: float
    new: int


def workload(model: Any, processor: Any, samples: Sequence[Sample], max_new_tokens: int) -> Workload:
    """The mean of what the samples (at least one) are to a model, which may be on the meta device.

    Raises PromptError if the processor rejects a sample.
    """
    from vtprune.study.prompts import encode

    parts = locate(model)
    ids = set(parts.placeholder_ids.values())
    found = []
    for sample in samples:
        inputs = encode(processor, [sample])
        tokens = inputs["input_ids"][0].tolist()
        vision = sum(token in ids for token in tokens)
        pixels = sum(value.numel() for name, value in inputs.items() if name.startswith("pixel_values"))
        found.append((vision, len(tokens) - vision, _tower(parts, pixels, vision, max(1, len(sample.visuals)))))
    vision, text, tower = (sum(column) / len(found) for column in zip(*found, strict=True))
    return Workload(vision, text, tower, max_new_tokens)


def _tower(parts: Parts, pixels: int, vision: int, images: int) -> float:
    """FLOPs of the vision tower for one sample, and of the projector for its tokens."""
    if not vision:
        return 0.0
    embed = next(m for m in parts.vision_tower.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    patches = pixels // (embed.in_channels * prod(embed.kernel_size))
    windows = [[patches // images] * images] * len(parts.vision_layers)
    apart = parts.per_token
    tower = vision_flops(parts.vision_tower, parts.vision_layers, patches, windows, exclude=apart)
    return tower + sum(vision * module_flops_per_token(module) for module in apart)


def sample_flops(model: Any, load: Workload, variant: Variant) -> float:
    """FLOPs of one sample under a variant: tower, prefill and decoding."""
    parts = locate(model)
    cost = CostModel.of(parts.layers, parts.attention, parts.head, model.dtype)
    shrunk = 1.0 if variant.downsample is None else variant.downsample
    entering, cached = tokens_by_layer(load.vision * shrunk, variant.recipe, parts.depth)
    steps = max(0, load.new - 1)
    keys = [round(load.text + count + (steps + 1) / 2) for count in cached]
    decoding = steps * cost.forward([1] * parts.depth, keys, 1)
    return load.tower * shrunk + cost.prefill_with(entering, round(load.text)) + decoding


def tokens_by_layer(vision: float, recipe: Mapping[str, Any] | None, depth: int) -> tuple[list[float], list[float]]:
    """Vision tokens entering each layer, and in its cache, ``[layer]`` each, if every stage keeps its budget.

    Raises ValueError for a site that a model of ``depth`` layers does not have.
    """
    entering, cached = [vision] * depth, [vision] * depth
    for stage in () if recipe is None else Recipe.parse(recipe).stages:
        kept = _kept(stage.budget, vision)
        layers = (0,) if stage.site.is_tower else stage.site.layers(depth)
        if stage.site.kind == "kv":
            for layer in layers:
                cached[layer] = min(cached[layer], kept)
            continue
        for layer in range(layers[0], depth):
            entering[layer] = min(entering[layer], kept)
            cached[layer] = min(cached[layer], kept)
    return entering, cached


def _kept(budget: Budget | None, vision: float) -> float:
    if budget is None:
        return vision
    counts = budget.unit in ("keep_tokens", "mean_tokens_over_layers")
    return min(vision, budget.value if counts else budget.value * vision)


def seconds_per_sample(store: Store, cells: Iterable[Cell]) -> dict[ModelRef, float]:
    """Wall seconds a sample took with each model, over the chunks of ``cells`` that a study's folder has."""
    seconds: dict[ModelRef, float] = defaultdict(float)
    samples: dict[ModelRef, int] = defaultdict(int)
    for cell in cells:
        for row in store.times(cell):
            seconds[cell.model] += row["prepare"] + row["generate"]
            samples[cell.model] += row["samples"]
    return {model: seconds[model] / samples[model] for model in samples if samples[model]}
