"""What a forward pass costs: FLOPs and KV-cache bytes, worked out from the modules themselves.

No formula per model family. Two terms are counted, a multiply and an add as two FLOPs:

- linear work, per token: ``2 * in * out`` for each linear map, ``2 * in / groups * kernel volume * out`` for each
  convolution (per output position, which is per patch in a patch embedding);
- attention work, per (query, key) pair: ``4 * query heads * head_dim``, half for the scores and half for the weighted
  sum. Pairs are the full rectangle queries x keys, without a discount for causal masks: that is what dense kernels
  execute and what ``torch.utils.flop_counter.FlopCounterMode`` counts. A kernel that skips masked blocks does as
  little as half of it on a prefill.

Embedding look-ups, norms, activations, rotary embeddings and softmax count as zero, as they do there. With the eager
attention, where every product is an ordinary matrix product, the two agree to the FLOP on LLaVA and Qwen2.5-VL, or to
0.02 % where transformers writes the rotary angles as a matrix product (``head_dim`` FLOPs per token and position axis,
seen in 5.17 and gone in 5.23). PyTorch's counter has no entry for the sdpa kernel of the CPU and silently counts its
attention as zero (seen in PyTorch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import nn

from vtprune.core.engine.heads import head_dim_of, kv_heads_of, own_head_dim, query_heads_of
from vtprune.core.errors import UnsupportedModelError


@dataclass(frozen=True)
class LayerCost:
    """The unit costs of one decoder layer.

    linear: FLOPs per token.
    pair: FLOPs per (query, key) pair, summed over the query heads.
    kv_bytes: bytes that one token occupies in the cache per KV head, its key and its value together.
    kv_heads: number of KV heads in its cache; 0 if it has no cache of its own.
    """

    linear: int
    pair: int
    kv_bytes: int
    kv_heads: int


@dataclass(frozen=True)
class CostModel:
    """Unit costs of a language model: one ``LayerCost`` per decoder layer, and the output head's FLOPs per row."""

    layers: tuple[LayerCost, ...]
    head: int

    @classmethod
    def of(
        cls,
        decoder_layers: Sequence[nn.Module],
        attention: Sequence[nn.Module | None],
        head: nn.Module | None,
        dtype: torch.dtype,
    ) -> CostModel:
        """Read the unit costs off a model.

        decoder_layers: the decoder layers, first to last; attention: the self-attention module of each, None where a
            layer has none. Of such a layer (a convolution, linear attention) the linear maps count, its scan does not.
            A layer that attends to the keys and values of an earlier one stores none.
        head: the output head, or None where there is none.
        dtype: of the cached keys and values.
        Raises ValueError when the two sequences differ in length, UnsupportedModelError when a module does not reveal
        its heads or its share of experts.
        """
        _require_one_each("attention", attention, len(decoder_layers))
        layers = []
        for layer, module in zip(decoder_layers, attention, strict=True):
            linear = module_flops_per_token(layer)
            if module is None or getattr(module, "is_kv_shared_layer", False):
                layers.append(LayerCost(linear, 0 if module is None else _pair_flops(module), 0, 0))
                continue
            kv_bytes = 2 * head_dim_of(module) * dtype.itemsize
            layers.append(LayerCost(linear, _pair_flops(module), kv_bytes, kv_heads_of(module)))
        return cls(tuple(layers), 0 if head is None else module_flops_per_token(head))

    @cached_property
    def _sums(self) -> tuple[int, int]:
        return sum(layer.linear for layer in self.layers), sum(layer.pair for layer in self.layers)

    def even(self, queries: int, keys: int) -> int:
        """FLOPs of one sample's pass in which every layer has equally many queries and keys; without the head."""
        linear, pair = self._sums
        return queries * (linear + keys * pair)

    def forward(self, queries: Sequence[int], keys: Sequence[int], logits: int) -> int:
        """FLOPs of one sample's pass through the language model, prefill or decoding step.

        queries: [layer], tokens that enter each layer. keys: [layer], keys that they attend to, cached and new.
        logits: rows that go through the output head: 1 in ``generate``, every token in a plain forward pass of a
        Hugging Face model, whose ``logits_to_keep=0`` means all.
        Raises ValueError when a sequence does not hold one number of at least 0 per layer.
        """
        return self._flops(queries, keys, logits)

    def prefill_with(self, vision: Sequence[float], text: int, logits: int = 1) -> int:
        """FLOPs of the prefill of one sample, with an empty cache, rounded to a whole number.

        vision: [layer], vision tokens in each layer, possibly fractional while a budget is being solved. (The cost of
        a mean is not the mean of the costs: attention grows with the square.) text: text tokens, in every layer.
        Raises ValueError as ``forward`` does.
        """
        tokens = [count + text for count in vision]
        return self._flops(tokens, tokens, logits)

    def kv_bytes(self, tokens: Sequence[int | Sequence[int]]) -> int:
        """Bytes of the cache that stores ``tokens``: per layer [layer], or per layer and KV head [layer][kv_head].

        Raises ValueError when the number of layers or of KV heads is not the model's.
        """
        _require_one_each("tokens", tokens, len(self.layers))
        total = 0
        for index, (layer, stored) in enumerate(zip(self.layers, tokens, strict=True)):
            per_head = [stored] * layer.kv_heads if isinstance(stored, int) else stored
            _require_one_each(f"tokens[{index}]", per_head, layer.kv_heads, "KV head")
            total += layer.kv_bytes * sum(per_head)
        return total

    def _flops(self, queries: Sequence[float], keys: Sequence[float], logits: int) -> int:
        for name, counts in (("queries", queries), ("keys", keys), ("logits", [logits])):
            if min(counts, default=0) < 0:
                raise ValueError(f"{name} holds {min(counts)}; a number of tokens is at least 0")
        _require_one_each("queries", queries, len(self.layers))
        _require_one_each("keys", keys, len(self.layers))
        work = sum(q * (c.linear + k * c.pair) for c, q, k in zip(self.layers, queries, keys, strict=True))
        return round(work + logits * self.head)


def module_flops_per_token(module: nn.Module, exclude: Iterable[nn.Module] = ()) -> int:
    """FLOPs of all linear maps and convolutions inside ``module``, each applied once to one token.

    Mixture-of-experts weights stacked in one parameter ``[num_experts, ., .]`` count for the ``top_k`` experts that
    the router in ``module`` picks, and the router counts too. exclude: modules left out together with everything
    inside them; those that are not inside ``module`` have no effect.
    Raises UnsupportedModelError for stacked experts without exactly one ``top_k`` beside them.
    """
    left_out = {inner for outer in exclude for inner in outer.modules()}
    counted = [inner for inner in module.modules() if inner not in left_out]
    top_k = {visited for inner in counted if isinstance(visited := getattr(inner, "top_k", None), int)}
    return sum(_own_flops(inner, top_k) for inner in counted)


def vision_flops(
    tower: nn.Module,
    layers: Sequence[nn.Module],
    tokens: int,
    windows: Sequence[Sequence[int]],
    exclude: Iterable[nn.Module] = (),
) -> int:
    """FLOPs of the vision tower for the images of one sample.

    layers: the tower's transformer layers. windows: [layer][window], the lengths of the attention windows of each
    layer: one window per image where attention is global, several where it is local. Their sum is the number of
    tokens in that layer, so that a tower that prunes between its layers is described as well; their squares are the
    (query, key) pairs. tokens: what passes through the rest of the tower, i.e. patches that are embedded (without a
    class token, which no convolution makes).
    exclude: modules inside the tower that the caller counts apart because they see another number of tokens, such as
    the patch mergers of Qwen-VL or a pooling head.
    Raises ValueError when ``windows`` does not hold one list per layer, UnsupportedModelError when a layer holds no
    single attention module with a ``head_dim``.
    """
    _require_one_each("windows", windows, len(layers))
    exclude = list(exclude)
    total = tokens * module_flops_per_token(tower, [*layers, *exclude])
    for layer, lengths in zip(layers, windows, strict=True):
        linear = module_flops_per_token(layer, exclude)
        total += sum(lengths) * linear + sum(n * n for n in lengths) * _pair_flops(_attention_in(layer))
    return total


def _own_flops(module: nn.Module, top_k: set[int]) -> int:
    """FLOPs per token of the weights that ``module`` itself holds, not those of its children."""
    if isinstance(module, nn.Linear):
        return 2 * module.in_features * module.out_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return 2 * module.in_channels // module.groups * prod(module.kernel_size) * module.out_channels
    own = list(module.parameters(recurse=False))
    if isinstance(getattr(module, "top_k", None), int):
        return sum(2 * weight.numel() for weight in own if weight.dim() == 2)
    experts = getattr(module, "num_experts", None)
    stacked = [weight for weight in own if weight.dim() == 3 and weight.shape[0] == experts]
    if stacked and len(top_k) != 1:
        raise UnsupportedModelError(
            f"{type(module).__name__} stacks the weights of {experts} experts, and the modules beside it have "
            f"{f'different values of top_k ({sorted(top_k)})' if top_k else 'no top_k'}: how many experts a token "
            f"visits is unknown. Expected a router with an integer `top_k`; count one decoder layer at a time."
        )
    return sum(2 * prod(weight.shape[1:]) * visited for weight in stacked for visited in top_k)


def _attention_in(layer: nn.Module) -> nn.Module:
    found = [module for module in layer.modules() if own_head_dim(module) is not None]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{type(layer).__name__} holds {len(found)} modules with a `head_dim`; expected one attention module"
        )
    return found[0]


def _pair_flops(attention: nn.Module) -> int:
    return 4 * query_heads_of(attention) * head_dim_of(attention)


def _require_one_each(name: str, given: Sequence[object], expected: int, axis: str = "layer") -> None:
    if len(given) != expected:
        raise ValueError(f"{name} has {len(given)} entries; expected one per {axis}, that is {expected}")
