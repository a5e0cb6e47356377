"""A slow reference for pruning: nothing is removed, attention masks hide the dropped tokens, positions are unchanged.

Pruning a token physically and hiding its key from every query are the same function, so the pruned model must agree
with this one. It shares no code with vtprune's engine and works through the public arguments of decoder layers alone.
From a layer without attention tokens are hidden by `vtprune.testing.recurrence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vtprune.testing.recurrence import Spliced


class Greedy(NamedTuple):
    """What `greedy_steps` returns; `batch` is that of the inputs."""

    tokens: Tensor
    """Generated ids, int64 `[batch, step]`."""
    logits: tuple[Tensor, ...]
    """Logits that chose each token, one float `[batch, vocabulary]` per step."""
    prefill: Tensor
    """Logits of the prompt's last token, `logits[0]`: float `[batch, vocabulary]`."""


class MaskedReference:
    """Context manager that hides tokens of `model`'s decoder from attention.

    In both maps True means that the token is kept and False that it is hidden:

    - `hide[layer]`: bool `[batch, token]`, the prompt's keys that queries of this layer see, at prefill and decoding.
      A token dropped on entering layer `l` has to be hidden in every layer from `l` on; `from_layer` makes such a map.
    - `hide_kv[layer]`: bool `[batch, kv_head, token]`, the prompt's keys that stay in this layer's cache, for each KV
      head. Concerns queries after the prompt only: the prompt itself is read with all its keys.

    `token` is that of the padded prompt; tokens after it are never hidden. `batch` is that of the inputs; the beams of
    a sample share its row. A query that would see nothing (padding, or a hidden token whose window is all hidden) sees
    itself; nobody sees its output.

    A layer that reads the keys and values of an earlier one (Gemma4) has none of its own: what is hidden from it is
    what is hidden in that layer, and entries for itself mean nothing. A layer without attention (a convolution, linear
    attention) gets its input without the hidden tokens.

    Works with `DynamicCache`, sliding windows included, and with the sdpa and eager attention of transformers.
    Raises ValueError on a layer the model lacks, on one of `hide_kv` that has no keys and values, and on masks of the
    wrong dtype or rank.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        hide: Mapping[int, Tensor] | None = None,
        hide_kv: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.layers: nn.ModuleList = model.get_decoder().layers
        self.hide = self._checked("hide", hide or {}, ("batch", "token"))
        self.hide_kv = self._checked("hide_kv", hide_kv or {}, ("batch", "kv_head", "token"))
        self._stack = ExitStack()
        self._lengths: dict[int, tuple[int, int, int]] = {}

    def __enter__(self) -> MaskedReference:
        named = self.hide.keys() | self.hide_kv.keys()
        for index in (index for index in range(len(self.layers)) if keys_of(self.layers, index) in named):
            if not hasattr(self.layers[index], "self_attn"):
                self._stack.enter_context(Spliced(self.layers[index], self.hide[index]))
                continue

            def pre_hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], index: int = index) -> Any:
                if keys_of(self.layers, index) == index:
                    lengths = _cache_lengths(kwargs.get("past_key_values"), index)
                    self._lengths[index] = (*lengths, args[0].shape[1])
                return args, {**kwargs, "attention_mask": self._mask(index, layer, args[0], kwargs)}

            self._stack.callback(self.layers[index].register_forward_pre_hook(pre_hook, with_kwargs=True).remove)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _checked(self, name: str, masks: Mapping[int, Tensor], axes: tuple[str, ...]) -> dict[int, Tensor]:
        for index, mask in masks.items():
            if not 0 <= index < len(self.layers):
                raise ValueError(f"{name} names layer {index}; the model has layers 0 to {len(self.layers) - 1}")
            if name == "hide_kv" and not hasattr(self.layers[index], "self_attn"):
                raise ValueError(f"{name} names layer {index}, which has no attention, so no keys and values")
            if mask.dtype != torch.bool or mask.dim() != len(axes):
                raise ValueError(
                    f"{name}[{index}] is {mask.dtype} of shape {tuple(mask.shape)}; "
                    f"expected torch.bool [{', '.join(axes)}], True where the token is kept"
                )
        return dict(masks)

    def _mask(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
        """The mask `[batch, 1 or head, query, key]` this layer call shall use, of the kind transformers gave it.

        transformers gives sdpa a bool mask, or None where its causal kernel needs none, and eager an additive float.
        """
        batch, queries = hidden.shape[:2]
        source = keys_of(self.layers, index)
        past, stored, new = self._lengths[source]
        # Gemma4 computes only the last queries in layers that read the keys of earlier ones.
        query_at = past + torch.arange(new - queries, new, device=hidden.device)
        key_at = past - stored + torch.arange(stored + new, device=hidden.device)

        kept = torch.ones(batch, 1, 1, len(key_at), dtype=torch.bool, device=hidden.device)
        if source in self.hide:
            kept = kept & _at(self.hide[source][:, None], key_at, batch)
        if source in self.hide_kv:
            in_prompt = query_at < self.hide_kv[source].shape[-1]
            stays = _at(self.hide_kv[source], key_at, batch).repeat_interleave(
                layer.self_attn.num_key_value_groups, dim=1
            )
            kept = kept & (stays | in_prompt[:, None])

        native = kwargs["attention_mask"]
        if native is None:
            if kept.all():
                return None
            visible = key_at <= query_at[:, None]
        else:
            visible = native if native.dtype == torch.bool else native == 0
        visible = visible & kept
        visible = visible | ((key_at == query_at[:, None]) & ~visible.any(-1, keepdim=True))
        if native is None or native.dtype == torch.bool:
            return visible
        return torch.zeros_like(visible, dtype=native.dtype).masked_fill(~visible, torch.finfo(native.dtype).min)


def from_layer(model: PreTrainedModel, keep: Tensor, first: int) -> dict[int, Tensor]:
    """The `hide` map of a drop on entering layer `first`: `keep`, bool `[batch, token]`, from that layer on."""
    return dict.fromkeys(range(first, len(model.get_decoder().layers)), keep)


def keys_of(layers: nn.ModuleList, index: int) -> int:
    """The layer whose keys and values layer `index` reads: mostly itself; in a model that shares them, the last one of
    the same type that has its own."""
    own: Any = getattr(layers[index], "self_attn", None)
    if not getattr(own, "is_kv_shared_layer", False):
        return index
    earlier: list[Any] = [layer.self_attn for layer in layers[:index]]
    have = [j for j, a in enumerate(earlier) if not a.is_kv_shared_layer and a.layer_type == own.layer_type]
    return have[-1]


def random_keep(vision_mask: Tensor, fraction: float, seed: int) -> Tensor:
    """Keep text and a random `fraction` (rounded, at least 1) of each sample's vision tokens: bool `[batch, token]`."""
    generator = torch.Generator().manual_seed(seed)
    keep = ~vision_mask
    for sample, row in enumerate(vision_mask):
        positions = row.nonzero()[:, 0]
        count = min(len(positions), max(1, round(fraction * len(positions))))
        keep[sample, positions[torch.randperm(len(positions), generator=generator)[:count]]] = True
    return keep


@torch.no_grad()
def greedy_steps(model: PreTrainedModel, inputs: Mapping[str, Tensor], steps: int) -> Greedy:
    """Generate `steps` tokens greedily with a cache, recording the logits of every step."""
    output = model.generate(
        **inputs,
        max_new_tokens=steps,
        do_sample=False,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return Greedy(output.sequences[:, inputs["input_ids"].shape[1] :], output.logits, output.logits[0])


def _cache_lengths(past_key_values: Any, index: int) -> tuple[int, int]:
    """Logical length of a layer's cache and how many slots it stores: fewer in a sliding layer that is full."""
    if past_key_values is None or index >= len(past_key_values.layers):
        return 0, 0
    layer = past_key_values.layers[index]
    return layer.get_seq_length(), layer.keys.shape[-2] if layer.is_initialized else 0


def _at(keep: Tensor, key_at: Tensor, batch: int) -> Tensor:
    """Read `keep` `[sample, head, token]` at the key positions: `[batch, head, 1, key]`, True after the prompt.

    `batch` counts the beams, which follow each other sample by sample.
    """
    prompt = keep.shape[-1]
    read = keep.new_ones(*keep.shape[:-1], len(key_at))
    read[..., key_at < prompt] = keep[..., key_at[key_at < prompt]]
    return read.repeat_interleave(batch // keep.shape[0], dim=0)[:, :, None, :]
