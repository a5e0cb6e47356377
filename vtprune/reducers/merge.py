"""Merge: the rest is averaged into the nearest kept token."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from vtprune.core.component import Merged, Reducer


class Merge(Reducer):
    """Average every other token into the kept token nearest to it by cosine, then remove it.

    Ties go to the kept token with the lower index. A kept token that receives nothing stays as it is, bit for bit. If
    a sample keeps no token, there is nothing to merge into and its tokens are simply removed.

    weighting: ``mean`` counts every token once; ``size`` counts it as often as the number of original tokens it
        already stands for after earlier merges (as ToMe does, arXiv 2210.09461, section 3).
    """

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"hidden"})

    weighting: Literal["mean", "size"] = "mean"

    @classmethod
    def examples(cls) -> tuple[Merge, ...]:
        return (cls(), cls(weighting="size"))

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged:
        """New values at the kept tokens, in the dtype of ``features``, and how many tokens each now stands for.

        Computed in float32 or better and one sample at a time, so that batch mates cannot shift a near tie.
        """
        merged, grown = features.clone(), sizes.clone()
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        for sample, row in enumerate(keep):
            kept, rest = row.nonzero().flatten(), (~row).nonzero().flatten()
            if kept.numel() == 0 or rest.numel() == 0:
                continue
            unit = normalize(exact[sample], dim=-1)
            nearest = (unit[rest] @ unit[kept].T).argmax(-1)
            member = one_hot(nearest, kept.numel()).T.to(exact.dtype)

            weight = (sizes[sample] if self.weighting == "size" else torch.ones_like(sizes[sample])).to(exact.dtype)
            weighted = exact[sample] * weight[:, None]
            total = weight[kept] + member @ weight[rest]
            mean = (weighted[kept] + member @ weighted[rest]) / total[:, None]

            received = kept[member.any(-1)]
            merged[sample, received] = mean[member.any(-1)].to(features.dtype)
            grown[sample, kept] += member.to(sizes.dtype) @ sizes[sample, rest]
        return Merged(merged, grown)
