"""Allocators that break one promise each: what the checks of allocators have to find.

`BROKEN` names the check that has to fail; `ALSO` those that then cannot but fail too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from vtprune.core.budget import apportion
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.signals import Need, Signals


def even(request: AllocationRequest, batch: int) -> Tensor:
    """int64 ``[batch, segment]``: the budget, with whole tokens for earlier layers as far as it goes; done right."""
    assert request.target is not None
    count = int(request.target)
    spare = (request.target - count) * sum(request.spans)
    for layer, span in zip(request.layers, request.spans, strict=True):
        spare -= span
        count += layer == request.layer and spare >= 0
        if spare < 0:
            break
    parts = apportion(min(count, sum(request.sizes)), request.original, request.sizes)
    return torch.tensor(parts, dtype=torch.int64).repeat(batch, 1)


class Even(Allocator):
    """Every layer keeps as much, as it should be; most of what is broken below is derived from it."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        return Allocation(even(request, signals.batch))


class Attentive(Allocator):
    """As much of the budget as there is attention to the image, at least one token; as it should be."""

    @property
    def count_is_static(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", "last")})

    def mass(self, signals: Signals) -> Tensor:
        """float ``[batch]``: attention to the image."""
        return signals.attention("last").sum(-1).mean(-1).cpu()

    def share(self, request: AllocationRequest, mass: float) -> int:
        """Tokens of the first segment that has any left; the others keep all of theirs."""
        assert request.target is not None
        return max(1, int(request.target * int(mass * 100) / 100))

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        mass = self.mass(signals)
        kept = [min(self.share(request, one), sum(request.sizes)) for one in mass.tolist()]
        counts = [apportion(one, request.original, request.sizes) for one in kept]
        return Allocation(torch.tensor(counts, dtype=torch.int64), {"mass": mass})


SOUND = (Even, Attentive)


class Evasive(Even):
    """Keeps one token less than it should, and says that signals decide, of which it needs none."""

    @property
    def count_is_static(self) -> bool:
        return False

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        return Allocation((even(request, signals.batch) - 1).clamp(min=0))


class YesOrNo(Even):
    """Says whether there is a problem in place of which."""

    def budget_problem(self, budget: object) -> bool:
        return budget is None


class Nowhere(Even):
    """Takes no budget, and cannot do without."""

    def budget_problem(self, budget: object) -> str:
        return "needs another budget"


class Floats(Even):
    """Counts in floating point."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        return Allocation(even(request, signals.batch).double())


class OfThePrompt(Even):
    """Gives an image its share, whether as many tokens are left or not."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        return Allocation(even(replace(request, sizes=request.original), signals.batch))


class RoundedDown(Even):
    """Rounds each layer down by itself."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.target is not None
        return Allocation(even(replace(request, target=request.target // 1), signals.batch))


class Exceeding(Even):
    """Rounds each of several layers up."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.target is not None
        up = -(-request.target // 1) if len(request.layers) > 1 else request.target
        return Allocation(even(replace(request, target=up), signals.batch))


class OfTheSurvivors(Even):
    """Takes a share of the survivors where the budget is one of the prompt."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.target is not None
        share = sum(request.sizes) / max(1, sum(request.original)) if len(request.layers) == 1 else 1
        return Allocation(even(replace(request, target=request.target * int(share * 100) / 100), signals.batch))


class AlmostAll(Even):
    """Drops one of all tokens where a layer governs fewer decoder layers than others do."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        counts = even(request, signals.batch)
        span = request.spans[request.layers.index(request.layer)]
        if span < max(request.spans) and request.target == sum(request.original):
            counts[:, -1] -= 1
        return Allocation(counts)


class DownToNothing(Attentive):
    """Rounds down to no token at all."""

    def share(self, request: AllocationRequest, mass: float) -> int:
        assert request.target is not None
        return int(request.target * int(mass * 100) / 100)


class Inverted(Attentive):
    """Keeps what should go."""

    def share(self, request: AllocationRequest, mass: float) -> int:
        assert request.target is not None
        return max(1, sum(request.sizes) - int(request.target))


class Needless(Even):
    """Looks at attention, although its counts do not follow from it."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", "last")})

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        signals.attention("last")
        return super().allocate(request, signals)


class SecretlyDynamic(Even):
    """Looks at features of which it says nothing."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        counts = even(request, signals.batch)
        return Allocation(counts.clamp(max=int(signals.features().abs().sum() > 0) * sum(request.sizes)))


class InOneOrder(Even):
    """Remembers the layer before, and gives less to the one that it expected earlier."""

    last: ClassVar[list[object]] = [None]

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        counts = even(request, signals.batch)
        late = self.last[0] == (request.layers, request.kv_heads, request.layer + 1)
        self.last[0] = (request.layers, request.kv_heads, request.layer)
        return Allocation((counts - 1).clamp(min=0) if late else counts)


class MeanOfTheBatch(Attentive):
    """Takes the mean attention of all samples for each of them."""

    def mass(self, signals: Signals) -> Tensor:
        return super().mass(signals).mean().expand(signals.batch).clone()


class Logarithm(Attentive):
    """Reports a logarithm of 0."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        made = super().allocate(request, signals)
        return replace(made, diagnostics={"log": made.diagnostics["mass"].log()})


class FromTheFirst(Even):
    """Counts the positions of a layout from its first one on, in place."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        for layout in signals.layouts:
            layout.positions.sub_(layout.positions[:1].clone())
        return super().allocate(request, signals)


class Undeclared(Even):
    """Reads a grid that it does not declare."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        signals.coordinates()
        return super().allocate(request, signals)


class Unread(Attentive):
    """Declares keys that it does not read."""

    def needs(self) -> frozenset[Need]:
        return super().needs() | {Need("keys")}


BROKEN: dict[str, type[Allocator]] = {
    "budget_problem_is_a_sentence": YesOrNo,
    "allocates_somewhere": Nowhere,
    "counts_have_the_declared_shape": Floats,
    "counts_fit_the_segments": OfThePrompt,
    "counts_meet_the_budget": RoundedDown,
    "survivors_share_the_budget": OfTheSurvivors,
    "whole_budget_keeps_everything": AlmostAll,
    "budget_above_zero_keeps_something": DownToNothing,
    "more_budget_keeps_no_less": Inverted,
    "static_counts_ignore_the_signals": Needless,
    "layers_can_be_asked_in_any_order": InOneOrder,
    "allocations_of_samples_are_independent": MeanOfTheBatch,
    "diagnostics_are_finite": Logarithm,
    "layouts_are_not_changed": FromTheFirst,
    "reads_only_what_it_declares": Undeclared,
    "reads_all_that_it_declares": Unread,
}
ALSO: dict[str, set[str]] = {
    "budget_problem_is_a_sentence": {"allocates_somewhere"},
    "counts_fit_the_segments": {"survivors_share_the_budget"},
}
