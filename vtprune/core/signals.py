"""Signals: what a site offers a component, computed only when asked for.

A component never sees the model. It declares the `Need`s it has; the engine checks them against what the adapter
provides at the site, captures what must be captured, and hands over a `Signals` view. The view covers a *bucket*:
samples whose number of surviving vision tokens is equal, stacked without padding, so a component cannot see padding and
has no mask to forget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from vtprune.core.layout import SampleLayout, Segment

Kind = Literal[
    "features",
    "keys",
    "values",
    "queries",
    "attention",
    "vision_attention",
    "text",
    "grid",
    "sample_seed",
    "annotation",
]
Query = Literal["last", "text_after_vision", "text", "received"]
TextTokens = Literal["last", "text_after_vision", "text"]
KINDS: tuple[str, ...] = get_args(Kind)
QUERIES: tuple[str, ...] = get_args(Query)


@dataclass(frozen=True)
class Need:
    """One signal a component reads.

    kind: ``features`` (what the site carries), ``keys``/``values``/``queries`` (post-RoPE, of the nearest attention
        layer), ``attention`` (rows of a language-model layer), ``vision_attention`` (rows inside the vision tower),
        ``text`` (text embeddings at the site), ``grid``, ``sample_seed``, ``annotation`` (what the caller knows about
        each vision token; see `vtprune.api.Run.annotate`).
    query: which query rows of ``attention`` (or which text tokens of ``text``) are read. For ``vision_attention``:
        ``cls`` (the CLS row) or ``received`` (mean over all rows).
    layer: absolute layer of ``attention``/``vision_attention``; None means the nearest finished layer of the
        language model (``llm.layers[i]`` reads layer i-1, ``llm.layers[i].kv`` reads layer i). Vision layers may be
        negative and then count from the end.
    """

    kind: Kind
    query: str | None = None
    layer: int | None = None

    def __str__(self) -> str:
        details = [f"{name}={value}" for name in ("query", "layer") if (value := getattr(self, name)) is not None]
        return f"{self.kind}({', '.join(details)})" if details else self.kind


class Signals:
    """The signals of a bucket of samples at one site. All tensors are detached and not to be changed; they are on one
    device, but for `sample_seeds`, which is on the CPU.

    layouts: the prompt's layout of each sample.
    alive: int64 ``[batch, vision]``; for each surviving vision token its index among the sample's vision tokens in
        the prompt, ascending. ``vision`` below always counts survivors.
    layer: the decoder layer of the site, or None before the language model.
    kv_heads: number of KV heads of the language model, or None if unknown.
    """

    def __init__(
        self,
        layouts: tuple[SampleLayout, ...],
        alive: Tensor,
        sources: Mapping[Need, Callable[[], Tensor]],
        layer: int | None = None,
        kv_heads: int | None = None,
    ) -> None:
        self.layouts = layouts
        self.alive = alive
        self.layer = layer
        self.kv_heads = kv_heads
        self._sources = sources
        self._cache: dict[Need, Tensor] = {}

    @property
    def batch(self) -> int:
        """Number of samples in the bucket."""
        return self.alive.shape[0]

    @property
    def vision(self) -> int:
        """Number of surviving vision tokens of every sample of the bucket."""
        return self.alive.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of every tensor."""
        return self.alive.device

    def segments(self, sample: int) -> tuple[Segment, ...]:
        """The images of one sample of the bucket, as they stand in the prompt."""
        return self.layouts[sample].segments

    def get(self, need: Need) -> Tensor:
        """The signal for ``need``; raises KeyError if the component did not declare it."""
        if need not in self._cache:
            if need not in self._sources:
                declared = ", ".join(map(str, self._sources)) or "none"
                raise KeyError(f"signal {need} was read but never declared in needs(); declared: {declared}")
            self._cache[need] = self._sources[need]().detach()
        return self._cache[need]

    def features(self) -> Tensor:
        """float ``[batch, vision, dim]``: what the site carries (tower output, projector output, hidden states)."""
        return self.get(Need("features"))

    def keys(self) -> Tensor:
        """float ``[batch, kv_head, vision, dim]``: post-RoPE keys of the nearest attention layer."""
        return self.get(Need("keys"))

    def values(self) -> Tensor:
        """float ``[batch, kv_head, vision, dim]``: values of the nearest attention layer."""
        return self.get(Need("values"))

    def queries(self) -> Tensor:
        """float ``[batch, head, vision, dim]``: post-RoPE queries of the nearest attention layer."""
        return self.get(Need("queries"))

    def attention(self, query: Query = "last", layer: int | None = None) -> Tensor:
        """float32 ``[batch, head, vision]``: softmax attention paid to each vision token, averaged over the chosen
        query rows. The softmax runs over everything the row may see, text included."""
        return self.get(Need("attention", query, layer))

    def vision_attention(self, query: Literal["cls", "received"] = "cls", layer: int = -2) -> Tensor:
        """float32 ``[batch, head, vision]``: attention inside the vision tower at ``layer``, on LLM tokens."""
        return self.get(Need("vision_attention", query, layer))

    def text(self, tokens: TextTokens = "last") -> Tensor:
        """float ``[batch, dim]``: mean of the chosen text tokens' embeddings at the site."""
        return self.get(Need("text", tokens))

    def coordinates(self) -> Tensor:
        """int64 ``[batch, vision, 4]``: segment, t, row, column of every surviving token."""
        return self.get(Need("grid"))

    def sample_seeds(self) -> Tensor:
        """int64 ``[batch]`` on the CPU: a number made from the sample's own content (prompt tokens and pixels), so
        that pseudo-random choices do not depend on batch mates or on the order of samples."""
        return self.get(Need("sample_seed"))

    def annotation(self) -> Tensor:
        """float32 ``[batch, vision]``: what the caller said of each vision token before the prompt was run, such as how
        much of the answer it shows."""
        return self.get(Need("annotation"))

    @classmethod
    def of(
        cls,
        tensors: Mapping[Need, Tensor],
        layouts: tuple[SampleLayout, ...],
        alive: Tensor | None = None,
        layer: int | None = None,
        kv_heads: int | None = None,
    ) -> Signals:
        """A view over given tensors; for tests and for trying a component without a model."""
        if alive is None:
            alive = torch.arange(layouts[0].vision).expand(len(layouts), -1)
        return cls(layouts, alive, {need: partial(_same, tensor) for need, tensor in tensors.items()}, layer, kv_heads)


def _same(tensor: Tensor) -> Tensor:
    return tensor
