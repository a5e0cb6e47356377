"""Soft merge: every dropped token is shared out among the kept tokens that resemble it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from vtprune.plugin import Merged, Reducer

TEMPERATURE = 0.1


class SoftMerge(Reducer):
    """Split every dropped token among several kept tokens, the more the more alike they are, then average.

    With x_i the features, s_i how many original tokens a token stands for, and j a dropped token::

        share[j, i] = softmax over the kept tokens i of cos(x_j, x_i) / temperature
        x_i        <- (s_i x_i + sum_j share[j, i] s_j x_j) / s_i',    s_i' = s_i + sum_j share[j, i] s_j

    That one discarded token may go to several targets is FiCoCo's idea (arXiv 2411.17686, its third step); weighing by
    size is ToMe's (arXiv 2210.09461, section 3). The softmax, its temperature and the limit to some neighbours are our
    choices: FiCoCo picks the targets by a quantile of the similarities.

    Sizes add up: together, the kept tokens stand for as many as there were. A kept token that receives nothing stays as
    it is, bit for bit. If a sample keeps no token, its tokens are simply removed.

    temperature: of the softmax; towards 0, each token goes to its nearest alone.
    neighbours: how many kept tokens a dropped one is shared out among, the nearest; equals at the limit go to the lower
        index. None: all. With 1 this is vtprune's ``merge`` weighted by size, and a temperature is an error.
    """

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"hidden"})

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = TEMPERATURE
    neighbours: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _no_dead_temperature(self) -> SoftMerge:
        if self.neighbours == 1 and self.temperature != TEMPERATURE:
            raise ValueError(
                f"temperature={self.temperature} has no effect with neighbours: 1, which takes all of a token; raise "
                f"neighbours or leave temperature out"
            )
        return self

    @classmethod
    def examples(cls) -> tuple[SoftMerge, ...]:
        return cls(), cls(temperature=1.0, neighbours=3), cls(neighbours=1)

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged:
        """New values at the kept tokens, in the dtype of ``features``, and how many tokens each now stands for.

        features: float ``[batch, vision, dim]``; keep: bool ``[batch, vision]``; sizes: float32 ``[batch, vision]``.
        Computed in float32 or better and one sample at a time, so that batch mates cannot shift a near tie.
        """
        merged, grown = features.clone(), sizes.clone()
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        for sample, row in enumerate(keep):
            kept, rest = row.nonzero().flatten(), (~row).nonzero().flatten()
            if kept.numel() == 0 or rest.numel() == 0:
                continue
            points, weights = exact[sample], sizes[sample].to(exact.dtype)
            given = self.shares(points[rest], points[kept]) * weights[rest].unsqueeze(-1)
            total = weights[kept] + given.sum(0)
            mean = (weights[kept].unsqueeze(-1) * points[kept] + given.T @ points[rest]) / total.unsqueeze(-1)
            received = given.any(0)
            merged[sample, kept[received]] = mean[received].to(features.dtype)
            grown[sample, kept[received]] = total[received].to(sizes.dtype)
        return Merged(merged, grown)

    def shares(self, rest: Tensor, kept: Tensor) -> Tensor:
        """float ``[rest, kept]``, rows that add up to 1: what of each dropped token goes to each kept one.

        rest, kept: float ``[token, dim]``.
        """
        cosine = normalize(rest, dim=-1) @ normalize(kept, dim=-1).T
        if self.neighbours is not None and self.neighbours < len(kept):
            far = cosine.argsort(dim=-1, descending=True, stable=True)[:, self.neighbours :]
            cosine = cosine.scatter(-1, far, -torch.inf)
        return (cosine / self.temperature).softmax(-1)
