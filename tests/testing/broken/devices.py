"""Components of every kind that harm their arguments, or work on the wrong device.

`BROKEN` names the check that has to fail; `ALSO` what a component then cannot but fail too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.testing.broken.reducers import Sized
from tests.testing.broken.selectors import Ranked, ranked, scores_of
from vtprune.core.component import (
    Allocation,
    AllocationRequest,
    Allocator,
    Candidates,
    Component,
    Merged,
    Scorer,
)
from vtprune.core.signals import Need, Signals


class WritesIntoScores(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        scores_of(candidates).add_(0.0)
        return super().select(candidates)


class ReturnsProtected(Ranked):
    """The mask is written into the one that came in."""

    def select(self, candidates: Candidates) -> Tensor:
        candidates.protected.data.copy_(super().select(candidates))
        return candidates.protected


class RemembersMasks(Ranked):
    memory: ClassVar[dict[str, Tensor]] = {}

    def select(self, candidates: Candidates) -> Tensor:
        kept = super().select(candidates)
        key = str((kept.device.type, kept.tolist()))
        return self.memory.setdefault(key, kept)


class ViewsScores(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        flat = scores_of(candidates).view(-1)
        return ranked(flat.view(candidates.protected.shape), candidates)


class LooksAtGradMode(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        sign = -1 if torch.is_inference_mode_enabled() else 1
        return ranked(scores_of(candidates) * sign, candidates)


class CountsOnTheDevice(Ranked):
    """The counts lie on the CPU."""

    def select(self, candidates: Candidates) -> Tensor:
        order = scores_of(candidates).masked_fill(candidates.protected, torch.inf).argsort(dim=-1, descending=True)
        return super().select(candidates) & (order < candidates.counts[:, None] + candidates.vision)


class SelectsOnTheCpu(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        return super().select(candidates).cpu()


class WritesIntoSizes(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        sizes.mul_(1.0)
        return merged


class ReturnsSizes(Sized):
    """The new sizes are written into the ones that came in."""

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        if not torch.equal(merged.sizes, sizes):
            sizes.data.copy_(merged.sizes)
        return Merged(merged.features, sizes)


class RemembersSizes(Sized):
    memory: ClassVar[dict[str, Tensor]] = {}

    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        key = str((sizes.device.type, sizes.is_inference(), merged.sizes.tolist()))
        return Merged(merged.features, self.memory.setdefault(key, merged.sizes))


class ViewsFeatures(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        assert len(features.view(-1)) == features.numel()
        return merged


class LooksAtInferenceMode(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        if torch.is_inference_mode_enabled():
            return None
        return merged


class MakesAMatrixOnTheCpu(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        return Merged(merged.features, merged.sizes + torch.zeros(keep.shape))


class SizesOnTheCpu(Sized):
    def changed(self, merged: Merged, features: Tensor, keep: Tensor, sizes: Tensor) -> Any:
        return Merged(merged.features, merged.sizes.cpu())


class Lengths(Scorer):
    """The squared length of each token's features; as it should be."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features")})

    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        return scores

    def score(self, signals: Signals) -> Tensor:
        features = signals.features()
        return self.changed(features.float().square().sum(-1), features)


class WritesIntoFeatures(Lengths):
    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        features.mul_(1.0)
        return scores


class ReturnsFeatures(Lengths):
    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        return features[..., 0]


class RemembersScores(Lengths):
    memory: ClassVar[dict[str, Tensor]] = {}

    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        key = str((scores.device.type, torch.is_inference_mode_enabled(), scores.tolist()))
        return self.memory.setdefault(key, scores)


class ViewsAllFeatures(Lengths):
    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        return scores + 0 * features.view(-1).sum()


class NegatesInInferenceMode(Lengths):
    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        return -scores if torch.is_inference_mode_enabled() else scores


class PrefersTheFirst(Lengths):
    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        return scores - torch.arange(scores.shape[-1])


class ScoresOnTheCpu(Lengths):
    def changed(self, scores: Tensor, features: Tensor) -> Tensor:
        return scores.cpu()


class Half(Allocator):
    """Half of each segment; as it should be, whatever the budget."""

    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        return counts

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        counts = torch.tensor([[size // 2 for size in request.sizes]] * signals.batch, dtype=torch.int64)
        return Allocation(self.changed(counts, signals))


class WritesIntoAlive(Half):
    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        signals.alive.add_(0)
        return counts


class ReturnsAlive(Half):
    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        return signals.alive.cpu()[:, : counts.shape[1]]


class RemembersCounts(Half):
    memory: ClassVar[dict[str, Tensor]] = {}

    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        return self.memory.setdefault(str(counts.tolist()), counts)


class ViewsAlive(Half):
    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        assert len(signals.alive.view(-1)) == signals.alive.numel()
        return counts


class GenerousInInferenceMode(Half):
    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        return counts + 1 if torch.is_inference_mode_enabled() else counts


class AddsWhatIsOnTheDevice(Half):
    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        return (counts + 0 * signals.alive[:, :1]).cpu()


class CountsOnTheWrongDevice(Half):
    def changed(self, counts: Tensor, signals: Signals) -> Tensor:
        return counts.to(signals.device)


BROKEN: dict[str, tuple[type[Component], ...]] = {
    "inputs_are_not_changed": (WritesIntoScores, WritesIntoSizes, WritesIntoFeatures, WritesIntoAlive),
    "results_share_no_memory_with_inputs": (ReturnsProtected, ReturnsSizes, ReturnsFeatures, ReturnsAlive),
    "results_of_two_calls_share_no_memory": (RemembersMasks, RemembersSizes, RemembersScores, RemembersCounts),
    "strides_do_not_matter": (ViewsScores, ViewsFeatures, ViewsAllFeatures, ViewsAlive),
    "inference_mode_changes_nothing": (
        LooksAtGradMode,
        LooksAtInferenceMode,
        NegatesInInferenceMode,
        GenerousInInferenceMode,
    ),
    "devices_are_not_mixed": (CountsOnTheDevice, MakesAMatrixOnTheCpu, PrefersTheFirst, AddsWhatIsOnTheDevice),
    "results_are_on_the_device_of_the_arguments": (
        SelectsOnTheCpu,
        SizesOnTheCpu,
        ScoresOnTheCpu,
        CountsOnTheWrongDevice,
    ),
}
ALSO: dict[type[Component], set[str]] = {
    ReturnsProtected: {"inputs_are_not_changed"},
    ReturnsSizes: {"inputs_are_not_changed"},
}
