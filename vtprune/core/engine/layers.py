"""What the decoder layers of a model are: which of them attend, and to whose keys and values.

Three kinds occur, also mixed in one model:

- An ordinary layer attends to the keys and values in its own cache. Layers of one model may differ in their KV heads.
- A layer that shares keys and values (Gemma3n, Gemma4) attends to those of an earlier layer, its producer. What was
  dropped between the two stays visible to it, since the producer has stored it.
- A layer without attention (convolution, linear attention) carries a state from token to token. Once tokens are
  dropped, that state is the state of the shorter sequence, as if the dropped tokens had never stood there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vtprune.core.adapter import Parts
from vtprune.core.engine.cache import PrunedLayer
from vtprune.core.engine.heads import head_dim_of, kv_heads_of, query_heads_of
from vtprune.core.recipe import Stage


@dataclass(frozen=True)
class LayerKind:
    """One decoder layer.

    index: its number; attention: its self-attention, or None; mixer: the class name of what mixes its tokens.
    producer: the layer whose keys and values it attends to, itself or an earlier one; None without attention.
    kv_heads: its KV heads, 0 without attention; groups: query heads per KV head.
    width: numbers that a token takes in its cache, the key's and the value's each; 0 if it has none of its own.
    rotary: the name by which the rotary embedding knows the layer's type, where layers of one model differ in it.
    """

    index: int
    attention: nn.Module | None
    mixer: str
    producer: int | None
    kv_heads: int
    groups: int
    width: int
    rotary: str | None

    @property
    def has_cache(self) -> bool:
        """Whether it has keys and values of its own."""
        return self.producer == self.index

    @property
    def shares(self) -> bool:
        """Whether it attends to the keys and values of an earlier layer."""
        return self.producer is not None and not self.has_cache


def layer_kinds(parts: Parts) -> tuple[LayerKind, ...]:
    """The decoder layers of a model, first to last."""
    config = parts.language_model.config
    types: Sequence[str | None] = getattr(config, "layer_types", None) or [None] * parts.depth
    kinds = []
    for layer, (module, attention) in enumerate(zip(parts.layers, parts.attention, strict=True)):
        if attention is None:
            kinds.append(LayerKind(layer, None, _mixer(module), None, 0, 1, 0, None))
            continue
        heads = kv_heads_of(attention, config)
        groups = query_heads_of(attention, config) // heads
        producer = _producer(parts.attention, layer)
        width = heads * head_dim_of(attention) if producer == layer else 0
        name = type(attention).__name__
        kinds.append(LayerKind(layer, attention, name, producer, heads, groups, width, types[layer]))
    return tuple(kinds)


def heads_in_words(parts: Parts) -> str:
    """What ``vtprune inspect`` says of the heads; layers may differ in their number."""
    kinds = [kind for kind in layer_kinds(parts) if kind.attention is not None]
    query, kv = {kind.groups * kind.kv_heads for kind in kinds}, {kind.kv_heads for kind in kinds}
    return f"{' or '.join(map(str, sorted(query)))} query heads and {' or '.join(map(str, sorted(kv)))} KV heads"


def depth_fault(parts: Parts) -> str | None:
    """Why some decoder layers may never run, or None: most models run as many as the text config says."""
    said = getattr(parts.language_model.config, "num_hidden_layers", parts.depth)
    if said >= parts.depth:
        return None
    return (
        f"{type(parts.language_model).__name__} has {parts.depth} decoder layers, but num_hidden_layers is {said} in "
        f"its config, so only the first {said} would run and a stage at a later one would do nothing; the likely cause "
        f"is a config edited after the model was made. Set it to {parts.depth}, or cut the model's layers to {said}"
    )


def _mixer(layer: nn.Module) -> str:
    """The class name of the first part of a layer that is neither a norm nor the feed-forward network."""
    names = [type(child).__name__ for child in layer.children()]
    return next((name for name in names if not any(part in name for part in ("Norm", "MLP", "Moe"))), names[0])


def _producer(attention: Sequence[nn.Module | None], layer: int) -> int:
    own: Any = attention[layer]
    if not getattr(own, "is_kv_shared_layer", False):
        return layer
    return max(
        index
        for index, module in enumerate(attention[:layer])
        if module is not None
        and not getattr(module, "is_kv_shared_layer", False)
        and getattr(module, "layer_type", None) == getattr(own, "layer_type", None)
    )


def store_of(cache: Any, kind: LayerKind) -> PrunedLayer | None:
    """The cache layer that holds the keys a decoder layer attends to; None without attention or without a cache."""
    return None if cache is None or kind.producer is None else cache.layers[kind.producer]


def site_faults(stage: Stage, layers: Sequence[int], kinds: Sequence[LayerKind], flash: bool) -> Iterator[str]:
    """Why a stage cannot act at its layers."""
    for layer in layers:
        if (kind := kinds[layer]).has_cache or (stage.site.kind != "kv" and not kind.shares):
            continue
        if stage.site.kind != "kv":
            yield (
                f"{stage.site}: decoder layer {layer} attends to the keys and values that layer {kind.producer} has "
                f"stored, so a token dropped on entering it would stay visible to every other; the last layer at which "
                f"dropping has an effect is {_last_with_cache(kinds)}"
            )
            return
        lacks = (
            f"attends to the keys and values of layer {kind.producer}"
            if kind.shares
            else f"has no keys and values (it is a {kind.mixer})"
        )
        wanted = [index for index in layers if kinds[index].has_cache]
        nearest = _nearest(layer, [kind.index for kind in kinds if kind.has_cache])
        hint = f"site: llm.layers[{','.join(map(str, wanted))}].kv" if wanted else f"use llm.layers[{nearest}].kv"
        yield f"{stage.site}: decoder layer {layer} {lacks}, so it has no cache to prune; {hint}"
        return
    if stage.budget is not None and stage.budget.unit == "kv_bytes_ratio" and len({kind.width for kind in kinds}) > 1:
        yield (
            f"budget {stage.budget} is worked out for layers whose caches take equally many bytes per token; those of "
            f"this model differ, or some layers have none; use keep_ratio or mean_tokens_over_layers"
        )
    shared = [kind.producer for kind in kinds if kind.shares]
    first = min(producer for producer in shared if producer is not None) if shared else None
    if first is not None and stage.site.kind != "kv" and layers[-1] > first:
        late = f"{stage.site} drops behind layer {first}, whose keys and values later layers share"
        if stage.positions == "reindex":
            yield f"{late}: their positions cannot be re-indexed any more; use positions: retain"
        if flash:
            yield (
                f"{late}: those layers then have more keys than queries, which flash kernels cannot align; load the "
                f"model with attn_implementation='sdpa', or drop at llm.layers[{first}] or before"
            )


def attention_fault(layer: int, kinds: Sequence[LayerKind]) -> str | None:
    """Why the attention, keys, values and queries of a layer cannot be read, or None."""
    if kinds[layer].attention is not None:
        return None
    nearest = _nearest(layer, [kind.index for kind in kinds if kind.attention is not None])
    return (
        f"layer {layer} has no attention to read (it is a {kinds[layer].mixer}); the nearest layer with attention is "
        f"{nearest}" + (f", which a stage at llm.layers[{nearest + 1}] reads" if nearest + 1 < len(kinds) else "")
    )


def _nearest(layer: int, candidates: Sequence[int]) -> int:
    return min(candidates, key=lambda index: abs(index - layer))


def _last_with_cache(kinds: Sequence[LayerKind]) -> int:
    return max(kind.index for kind in kinds if not kind.shares)
