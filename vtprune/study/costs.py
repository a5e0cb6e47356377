"""What one sample cost, as columns of its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from vtprune.core.engine.cost import CostModel
from vtprune.core.recipe import Recipe

if TYPE_CHECKING:
    from vtprune.core.report import Report


class Costs(TypedDict):
    """The columns of `SampleRow` that say what a sample cost."""

    prompt_tokens: int
    vision_tokens: int
    input_tokens: int
    mean_tokens: float
    mean_kv_tokens: float
    kv_bytes: int
    kv_bytes_full: int
    flops: int
    flops_full: int
    tokens_by_layer: list[int] | None
    kv_by_head: list[list[int]] | None


def reported(report: Report, number: int, cost: CostModel) -> Costs:
    """What one sample of a batch cost, padding left out.

    The vision tower's FLOPs are those of the batch, shared by each sample's vision tokens in the prompt: exact where
    all images are of one size, for attention inside a tower grows faster than the tokens.
    """
    vision, every = report.layouts[number].vision, sum(layout.vision for layout in report.layouts)
    parts = report.flops_parts
    towers = tuple(round(parts[name] * vision / every) for name in ("vision", "vision_full"))
    by_layer, by_head = report.vision_tokens[number], report.kv_tokens[number]
    return _costs(report.text_tokens[number], vision, by_layer, by_head, towers, report.recipe, cost)


def of_text(tokens: int, recipe: Recipe, cost: CostModel) -> Costs:
    """What a sample of so many tokens and without a visual cost."""
    return _costs(
        tokens, 0, [0] * len(cost.layers), [[0] * layer.kv_heads for layer in cost.layers], (0, 0), recipe, cost
    )


def _costs(
    text: int,
    vision: int,
    by_layer: Sequence[int],
    by_head: Sequence[Sequence[int]],
    towers: tuple[int, ...],
    recipe: Recipe,
    cost: CostModel,
) -> Costs:
    """by_layer: vision tokens that enter each layer; by_head: in the cache of each layer and KV head; towers: FLOPs of
    the vision tower, pruned and not."""
    cached = [count for heads in by_head for count in heads]
    pruned = bool(recipe.stages)
    return {
        "prompt_tokens": text + vision,
        "vision_tokens": vision,
        "input_tokens": by_layer[0],
        "mean_tokens": sum(by_layer) / len(by_layer),
        "mean_kv_tokens": sum(cached) / len(cached),
        "kv_bytes": cost.kv_bytes([[text + count for count in heads] for heads in by_head]),
        "kv_bytes_full": cost.kv_bytes([text + vision] * len(by_layer)),
        "flops": towers[0] + cost.prefill_with(by_layer, text),
        "flops_full": towers[1] + cost.prefill_with([vision] * len(by_layer), text),
        "tokens_by_layer": list(by_layer) if pruned else None,
        "kv_by_head": [list(heads) for heads in by_head] if pruned else None,
    }
