"""Reducers that break one promise each: what the checks of reducers have to find.

`BROKEN` names the check that has to fail; `ALSO` those that then cannot but fail too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vtprune.core.component import Merged, Reducer


def shares(keep: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``[batch, vision, vision]``: how much of each token (last axis) goes to each token; what is not kept is spread
    evenly over the kept tokens of its sample."""
    keep = keep.to(dtype)
    rest = (1 - keep)[:, None] * keep[:, :, None] / keep.sum(-1).clamp(min=1)[:, None, None]
    return torch.diag_embed(keep) + rest


class Spread(Reducer):
    """The mean of a kept token and its share of the rest; as it should be."""

    sites: ClassVar[frozenset[Any]] = frozenset({"hidden"})

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged | None:
        share = shares(keep)
        total = share.sum(-1, keepdim=True).clamp(min=1)
        mean = (share / total) @ features.float()
        receives = keep & ~keep.all(-1, keepdim=True)
        made = torch.where(receives[..., None], mean.to(features.dtype), features)
        grown = torch.where(keep, (share @ sizes[..., None])[..., 0], sizes)
        return Merged(made, grown)


class Sized(Spread):
    """What is broken below about the result of `Spread`."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        return merged

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged | None:
        merged = super().merge(features, keep, sizes)
        assert merged is not None
        made: Merged | None = self.changed(merged, features, keep, sizes)
        return made


class ServesNothing(Reducer):
    sites: ClassVar[frozenset[Any]] = frozenset({"hiden"})


class MergesInTheCache(Spread):
    sites: ClassVar[frozenset[Any]] = frozenset({"kv"})


class AnswersWithDoubles(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        return Merged(merged.features, merged.sizes.double())


class AnswersInFloat32(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        return Merged(merged.features.float(), merged.sizes)


class TouchesEverySample(Sized):
    """A sample that keeps every token is rounded on its way."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        all_kept = keep.all(-1)[:, None, None]
        return Merged(torch.where(all_kept, merged.features * 1.0001, merged.features), merged.sizes)


class NeedsAKeptToken(Sized):
    """The first kept token of each sample."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        assert all(row.nonzero()[0].numel() for row in keep)
        return merged


class CountsTokens(Sized):
    """One for every token, whatever it stood for before, on top of the kept token's own size."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        received = (shares(keep) * (~keep)[:, None]).sum(-1)
        return Merged(merged.features, torch.where(keep, sizes + received, sizes))


class Levels(Sized):
    """Every kept token stands for the same number."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        level = sizes.sum(-1, keepdim=True) / keep.sum(-1, keepdim=True).clamp(min=1)
        several = keep & ~keep.all(-1, keepdim=True)
        return Merged(merged.features, torch.where(several, level, merged.sizes))


class DividesByLengths(Sized):
    """Merged features are given the length of what was there before."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        receives = keep & ~keep.all(-1, keepdim=True)
        length = merged.features.float().abs().amax(-1, keepdim=True)
        scaled = (merged.features.float() / length * length).to(features.dtype)
        return Merged(torch.where(receives[..., None], scaled, merged.features), merged.sizes)


class AddsInHalf(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        total = features.sum(1, keepdim=True)
        return Merged(merged.features + 0 * total, merged.sizes)


class RoundsToHalf(Sized):
    """Every token is averaged with one that chance of rounding chooses."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        if features.dtype == torch.float32:
            return merged
        receives = keep & ~keep.all(-1, keepdim=True)
        coarse = (merged.features / 4).round() * 4
        return Merged(torch.where(receives[..., None], coarse.to(features.dtype), merged.features), merged.sizes)


class AveragesTheBatch(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        receives = keep & ~keep.all(-1, keepdim=True)
        mean = features.float().mean((0, 1), keepdim=True).clamp(-1e3, 1e3)
        shifted = (merged.features.float() + 1e-3 * mean).to(features.dtype)
        return Merged(torch.where(receives[..., None], shifted, merged.features), merged.sizes)


class Detaches(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        return Merged(merged.features.detach().clone(), merged.sizes)


BROKEN: dict[str, type[Reducer]] = {
    "sites_are_known": ServesNothing,
    "only_hidden_sites_are_merged_at": MergesInTheCache,
    "merge_returns_features_and_sizes": AnswersWithDoubles,
    "merged_features_keep_their_dtype": AnswersInFloat32,
    "merging_nothing_changes_nothing": TouchesEverySample,
    "keeping_nothing_does_no_harm": NeedsAKeptToken,
    "sizes_are_conserved": CountsTokens,
    "kept_tokens_keep_their_own_size": Levels,
    "merged_values_are_finite": DividesByLengths,
    "half_precision_does_not_overflow": AddsInHalf,
    "half_precision_is_merged_in_float32": RoundsToHalf,
    "samples_are_merged_alone": AveragesTheBatch,
    "merging_can_be_differentiated": Detaches,
}
UNUSABLE: set[str] = set()
ALSO: dict[str, set[str]] = {
    "merge_returns_features_and_sizes": {"half_precision_is_merged_in_float32", "merging_nothing_changes_nothing"},
}
SOUND = (Spread, Sized)
