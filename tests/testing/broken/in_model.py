"""Components that are broken on purpose, for the checks in a model."""

from __future__ import annotations

import gc
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.modeling_utils import AttentionInterface

from tests.testing.broken.common import Sound
from vtprune.core.component import Allocation, AllocationRequest, Allocator, Candidates, Component, Scorer, Selector
from vtprune.core.signals import Need, Signals


class NeedsEverything(Scorer):
    """Attention of a layer that no tiny model has."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", "last", 99)})

    def score(self, signals: Signals) -> Tensor:
        return signals.attention("last", 99).mean(1)


class Mute(Need):
    """A need that does not say what it is."""

    def __str__(self) -> str:
        return "something"


class Silent(Scorer):
    """Needs that are not named when they are missing."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Mute("keys")})

    def score(self, signals: Signals) -> Tensor:
        return signals.get(Mute("keys")).norm(dim=-1).mean(1)


class Forgetful(Scorer):
    """Needs that binding does not see: they are returned at every third call only."""

    asked: ClassVar[list[int]] = []

    def needs(self) -> frozenset[Need]:
        self.asked.append(1)
        return frozenset({Need("keys")}) if len(self.asked) % 2 else frozenset()

    def score(self, signals: Signals) -> Tensor:
        return signals.alive.float()


class OneLess(Allocator):
    """One token less than the budget allows."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.target is not None
        share = request.target / sum(request.sizes)
        counts = [max(0, int(share * size) - 1) for size in request.sizes]
        return Allocation(torch.tensor([counts] * signals.batch))


class KeepsLess(Selector):
    """Drops one token more than allocated."""

    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.scores is not None
        order = candidates.scores.argsort(-1, descending=True).argsort(-1)
        return order < (candidates.counts[:, None] - 1)


class Unprotected(Selector):
    """Looks at the scores alone."""

    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.scores is not None
        order = torch.argsort(candidates.scores, dim=-1, descending=True, stable=True).argsort(-1)
        return order < candidates.counts[:, None]


class OverTheBatch(Sound):
    """Compares with the mean token of the whole batch.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        features = signals.features()
        return (features - features.mean((0, 1))).norm(dim=-1) ** self.power


class SecondSample(Sound):
    """Reads the second sample, where there may be none beside one without an image.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        assert signals.layouts[signals.batch - 1].segments[0].start == 0
        if len(signals.layouts[0].segments) == 2 and not signals.batch > 1:
            raise IndexError("list index out of range")
        return super().score(signals)


class Registering(Sound):
    """Puts an attention function of its own into the table of transformers.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        AttentionInterface.register("broken", print)
        return super().score(signals)


class Steering(Sound):
    """Adds a hook to every module of the process.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        def steer(module: Any, arguments: Any, output: Any) -> Any:
            return output * 1.01 if isinstance(module, torch.nn.Linear) else None

        torch.nn.modules.module.register_module_forward_hook(steer)
        return super().score(signals)


class ClearsHooks(Sound):
    """Clears all hooks that it can find.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        for found in gc.get_objects():
            if type(found).__name__.endswith("DecoderLayer"):
                found._forward_hooks.clear()
        return super().score(signals)


class InFloat(Sound):
    """A float32 matrix, whatever the model's dtype.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        features = signals.features()
        return (features @ torch.eye(features.shape[-1])).norm(dim=-1) ** self.power


BROKEN: dict[str, list[type[Component]]] = {
    "binds_somewhere": [NeedsEverything],
    "missing_signals_are_named": [Silent, Forgetful],
    "keeping_everything_changes_nothing": [OneLess],
    "cache_holds_what_was_allocated": [KeepsLess],
    "removal_equals_masking": [Steering],
    "batch_mates_do_not_matter": [OverTheBatch],
    "samples_without_image_are_left_alone": [SecondSample],
    "protected_tokens_survive": [Unprotected],
    "model_is_restored": [Registering],
    "model_is_restored_after_an_error": [Registering],
    "foreign_hooks_survive": [ClearsHooks],
    "runs_in_bfloat16": [InFloat],
}
"""By check the components that fail it; `recipe_round_trip` needs a registration."""
