"""Attention weighed by the size of what it carries: the norm of the token's value."""

from __future__ import annotations

from typing import Annotated, Literal

from einops import reduce
from pydantic import Field
from torch import Tensor
from torch.linalg import vector_norm

from vtprune.plugin import ComponentError, Need, Scorer, Signals


class ValueAttention(Scorer):
    """What a vision token can contribute to the output of an attention layer: attention times value norm.

    An attention head adds ``sum_i A[i] v_i``, so a token with much attention and a short value matters little. With
    A[h, i] the attention of the chosen query rows to token i in query head h, averaged over these rows, and v[g, i] its
    value in KV head g::

        score[g, i] = mean_{h in group g} A[h, i] * ||v[g, i]||_p     (per_head)
        score[i]    = mean_g score[g, i]

    VATP (Guo, Kamigaito and Watanabe, arXiv 2406.12335) ranks cached text tokens so, with p = 1; it sums attention over
    query rows as the method does that it is put on, and always keeps the first tokens of the prompt. Vision tokens in
    place of text, one row by default, and the means over query heads that share a KV head and over KV heads are our
    choices.

    query: rows of attention: ``last`` (last prompt token), ``text_after_vision``, ``text``, or ``received`` (every row
        that may see the token).
    p: order of the norm, 1 or more.
    per_head: one score per KV head (``.kv`` sites only) in place of their mean.
    """

    query: Literal["last", "text_after_vision", "text", "received"] = "last"
    p: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    per_head: bool = False

    @property
    def granularity(self) -> Literal["token", "head"]:
        return "head" if self.per_head else "token"

    @classmethod
    def examples(cls) -> tuple[ValueAttention, ...]:
        return cls(), cls(query="received", p=2.0), cls(per_head=True)

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", self.query), Need("values")})

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, or ``[batch, kv_head, vision]`` with ``per_head``; non-negative, in units of the
        values.

        Raises ComponentError if query heads do not divide into KV heads.
        """
        rows = signals.attention(self.query).float()
        values = signals.values().float()
        peak = values.abs().amax(-1, keepdim=True)  # scaled by it, no power over- or underflows
        norms = vector_norm(values / peak.masked_fill(peak == 0, 1), ord=self.p, dim=-1) * peak.squeeze(-1)
        heads, kv_heads = rows.shape[1], norms.shape[1]
        if heads % kv_heads:
            raise ComponentError(
                f"value_attention needs query heads in equal groups, one per KV head, but the model has {heads} query "
                f"heads and {kv_heads} KV heads"
            )
        grouped = reduce(rows, "batch (kv_head group) vision -> batch kv_head vision", "mean", kv_head=kv_heads)
        scores = grouped * norms
        return scores if self.per_head else scores.mean(1)
