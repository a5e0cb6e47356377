"""Attention that text queries pay to vision tokens inside the language model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from einops import reduce
from pydantic import Field, model_validator
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.errors import ComponentError
from vtprune.core.signals import Need, Query, Signals


class Attention(Scorer):
    """Softmax attention paid to each vision token, averaged over the chosen query rows.

    With A[h, q, i] the attention of query row q to vision token i in query head h, and Q the chosen rows::

        score[i]    = reduce_h            mean_{q in Q} A[h, q, i]      (head_reduction mean or max)
        score[g, i] = reduce_{h in group g} mean_{q in Q} A[h, q, i]    (head_reduction none, KV head g)

    FastV (arXiv 2403.06764) averages over the heads; in its official code Q is the last prompt token.
    PLPHP (arXiv 2502.14504) ranks per head; how it maps query heads to KV heads is not stated, so ``gqa_reduction`` is
    our choice, and an option.

    query: ``last`` (last prompt token), ``text_after_vision``, ``text`` (means over those tokens) or ``received``
        (mean over every row that may see the token).
    layer: absolute decoder layer; None means the nearest finished one.
    head_reduction: ``mean`` or ``max`` over query heads; ``none`` keeps one score per KV head (``.kv`` sites only).
    gqa_reduction: how the query heads that share a KV head are joined; acts only with ``head_reduction: none``.
    heads: use these query heads only; None means all. Not with ``head_reduction: none``.
    """

    query: Query = "last"
    layer: Annotated[int, Field(ge=0)] | None = None
    head_reduction: Literal["mean", "max", "none"] = "mean"
    gqa_reduction: Literal["mean", "max"] = "mean"
    heads: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _no_dead_options(self) -> Attention:
        problems = []
        if self.head_reduction != "none" and self.gqa_reduction != "mean":
            problems.append(
                f"gqa_reduction: {self.gqa_reduction} acts only with head_reduction: none, but head_reduction is "
                f"{self.head_reduction}; remove gqa_reduction or set head_reduction: none"
            )
        if self.heads is not None:
            if self.head_reduction == "none":
                problems.append("heads chooses query heads to reduce, but head_reduction is none; use mean or max")
            if len(set(self.heads)) != len(self.heads):
                problems.append(f"heads must be distinct, got {list(self.heads)}")
            elif len(self.heads) == 1 and self.head_reduction == "max":
                problems.append("head_reduction: max over a single head has no effect; leave it at mean")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(),
            cls(query="text", layer=0, head_reduction="max"),
            cls(heads=(2, 0)),
            cls(head_reduction="none"),
            cls(head_reduction="none", gqa_reduction="max"),
        )

    @property
    def granularity(self) -> Literal["token", "head"]:
        return "head" if self.head_reduction == "none" else "token"

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", self.query, self.layer)})

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, or ``[batch, kv_head, vision]`` with ``head_reduction: none``; in [0, 1].

        Raises ComponentError for a head that the model does not have, or if query heads do not divide into KV heads.
        """
        rows = signals.attention(self.query, self.layer).float()
        count = rows.shape[1]
        if self.head_reduction == "none":
            if not signals.kv_heads or count % signals.kv_heads:
                raise ComponentError(
                    f"attention with head_reduction: none needs query heads in equal groups, one per KV head, but the "
                    f"model has {count} query heads and {signals.kv_heads or 'an unknown number of'} KV heads"
                )
            pattern = "batch (kv_head group) vision -> batch kv_head vision"
            return reduce(rows, pattern, self.gqa_reduction, kv_head=signals.kv_heads)
        if self.heads is not None:
            if missing := [head for head in self.heads if head >= count]:
                raise ComponentError(
                    f"attention was asked for query heads {missing}, but the model has heads 0 to {count - 1}"
                )
            rows = rows[:, list(self.heads)]
        return reduce(rows, "batch head vision -> batch vision", self.head_reduction)
