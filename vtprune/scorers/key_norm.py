"""The norm of each token's key."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals


class KeyNorm(Scorer):
    """The p-norm of each vision token's post-RoPE key, as a score::

        norm[g, i] = (sum_dim |k[g, i, dim]|^p)^(1/p)
        score      = -norm (keep: low)  or  norm (keep: high)

    Tokens whose keys have a low L2 norm tend to be attended to (Devoto et al., arXiv 2406.11430); ViTCoP ranks vision
    tokens by it without computing attention. The rotary embedding leaves the 2-norm as it was, other norms not. Norms
    other than 2 and the mean over KV heads are our choices.

    p: order of the norm, 1 or more. keep: which end is worth keeping.
    per_head: one score per KV head (``.kv`` sites only) in place of the mean over KV heads.
    """

    p: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    keep: Literal["low", "high"] = "low"
    per_head: bool = False

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(p=1.0, keep="high", per_head=True))

    @property
    def granularity(self) -> Literal["token", "head"]:
        return "head" if self.per_head else "token"

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("keys")})

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, or ``[batch, kv_head, vision]`` with ``per_head``, in units of the keys."""
        keys = signals.keys().float()
        peak = keys.abs().amax(dim=-1, keepdim=True)  # scaled by it, no power over- or underflows
        scaled = keys / peak.masked_fill(peak == 0, 1)
        norms = torch.linalg.vector_norm(scaled, ord=self.p, dim=-1) * peak.squeeze(-1)
        norms = norms if self.per_head else norms.mean(dim=1)
        return -norms if self.keep == "low" else norms
