"""What allocators are asked: stages in all places, budgets in every unit, resolved as the engine resolves them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property, partial
from typing import Final, Literal

import torch
from torch import Tensor

from vtprune.core.budget import UNITS, Budget
from vtprune.core.component import AllocationRequest, Allocator
from vtprune.core.errors import BudgetError, ComponentError
from vtprune.core.signals import Need
from vtprune.core.target import Programme, resolve
from vtprune.testing.inputs.layouts import Bucket, like_survivors, one_image
from vtprune.testing.inputs.scoring import ON_CPU, offered
from vtprune.testing.inputs.signals import KV_HEADS, LANGUAGE, Offer, Values, signals_for, tensors_for
from vtprune.testing.inputs.trials import Tensors, Trial

DEPTH: Final = 4
TEXT: Final = 8
"""Tokens of the prompt that are not vision."""
SHARES: Final = (0.0, 0.01, 0.3, 0.5, 0.77, 1.0)
FEW: Final = (0.0, 0.3, 0.77, 1.0)
"""Shares of units other than `keep_ratio`."""

Scope = Literal["joint", "image"]


@dataclass(frozen=True)
class Place:
    """Where a stage acts in a model of `DEPTH` decoder layers. kv_heads: at a ``.kv`` site, else None; is_input: before
    the first decoder layer."""

    name: str
    layers: tuple[int, ...]
    kv_heads: int | None = None
    is_input: bool = False

    def offers(self, needs: frozenset[Need]) -> bool:
        """Whether the signals exist here: before the first decoder layer has run there is no attention or key."""
        return self.kv_heads is not None or self.layers[0] > 0 or not {need.kind for need in needs} & LANGUAGE

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """How many decoder layers each layer's count governs."""
        return self.programme(0).spans

    def programme(self, vision: int) -> Programme:
        """A sample with so many vision tokens, none of them dropped by an earlier stage."""
        return Programme(vision, TEXT, (vision,) * DEPTH, self.layers, self.kv_heads is not None, _Linear())


PLACES: Final = (
    Place("projector.output", (0,), is_input=True),
    Place("llm.layers[2]", (2,)),
    Place("llm.layers[1:]", (1, 2, 3)),
    Place("llm.layers[1,3]", (1, 3)),
    Place("llm.layers[0:]", (0, 1, 2, 3)),
    Place("llm.layers[1:].kv", (1, 2, 3), KV_HEADS),
    Place("llm.layers[2].kv", (2,), KV_HEADS),
)


class _Linear:
    """A prefill that costs as much as it has tokens."""

    def prefill_with(self, vision: Sequence[int], text: int, logits: int = 1) -> int:
        return sum(vision) + text * len(vision)


def request(
    target: Fraction | int | str | None = None,
    sizes: tuple[int, ...] = (10,),
    original: tuple[int, ...] | None = None,
    layers: tuple[int, ...] = (0,),
    spans: tuple[int, ...] | None = None,
    layer: int | None = None,
    kv_heads: int | None = None,
    budget: Budget | None = None,
    depth: int = 32,
) -> AllocationRequest:
    """A request with the rest filled in: spans of 1, the first layer, nothing dropped yet."""
    return AllocationRequest(
        target=None if target is None else Fraction(target),
        sizes=sizes,
        original=sizes if original is None else original,
        layer=layers[0] if layer is None else layer,
        layers=layers,
        spans=(1,) * len(layers) if spans is None else spans,
        depth=depth,
        kv_heads=kv_heads,
        budget=budget,
    )


@dataclass(frozen=True)
class Asked:
    """A budget in a place: what an allocator is asked at each of the place's layers."""

    place: Place
    budget: Budget | None
    scope: Scope = "joint"

    def __str__(self) -> str:
        return f"{self.place.name}, budget {self.budget or 'none'}, scope {self.scope}"

    def target(self, bucket: Bucket) -> Fraction | None:
        """The budget, resolved for the samples of a bucket; raises BudgetError if it is out of reach."""
        return None if self.budget is None else _resolved(self.budget, self.place, sum(bucket.original))

    def request(self, bucket: Bucket, layer: int) -> AllocationRequest:
        """The request at one layer; the samples of the bucket have equal segments where the scope is ``image``."""
        joint = self.scope == "joint"
        return AllocationRequest(
            target=self.target(bucket),
            sizes=(bucket.vision,) if joint else bucket.sizes,
            original=(sum(bucket.original),) if joint else bucket.original,
            layer=layer,
            layers=self.place.layers,
            spans=self.place.spans,
            depth=DEPTH,
            kv_heads=self.place.kv_heads,
            budget=self.budget,
        )

    def signals(self, allocator: Allocator, bucket: Bucket, layer: int, values: Values = "normal") -> Offer:
        """Signals for the allocator at one layer, other ones at each."""
        return signals_for(allocator, bucket, seed=layer, values=values, layer=None if self.place.is_input else layer)


@cache
def budgets(unit: str, place: Place, vision: int) -> tuple[Budget, ...]:
    """Budgets of one unit within reach, ascending, from nothing to everything."""
    found = []
    for share in SHARES if unit == "keep_ratio" else FEW:
        value: float = round(share * vision) if unit == "keep_tokens" else share
        if unit == "mean_tokens_over_layers":
            value = share * vision
        budget = Budget(unit=unit, value=float(value))  # type: ignore[arg-type]
        try:
            _resolved(budget, place, vision)
        except BudgetError:
            continue
        if budget not in found:
            found.append(budget)
    return tuple(found)


@cache
def _resolved(budget: Budget, place: Place, vision: int) -> Fraction:
    return resolve(budget, place.programme(vision))


def accepted(allocator: Allocator, bucket: Bucket | None = None, scope: Scope = "joint") -> dict[Place, list[Asked]]:
    """What an allocator can be asked: the places that it serves, and the budgets that it takes there, by unit and then
    ascending; ``[None]`` where it takes none.

    It serves a place unless it raises ComponentError at one of its layers for a sample of one image, as an allocator
    does whose parameters name other layers. bucket: default `one_image`.
    """
    bucket = one_image() if bucket is None else bucket
    found: dict[Place, list[Asked]] = {}
    for place in PLACES:
        taken = _taken(allocator, place, bucket, scope)
        if taken and place.offers(allocator.needs()) and _serves(allocator, place):
            found[place] = taken
    return found


def _taken(allocator: Allocator, place: Place, bucket: Bucket, scope: Scope) -> list[Asked]:
    units = [budgets(unit, place, sum(bucket.original)) for unit in UNITS]
    asked = [Asked(place, None, scope), *(Asked(place, one, scope) for unit in units for one in unit)]
    return [one for one in asked if allocator.budget_problem(one.budget) is None]


def middling(taken: Sequence[Asked], bucket: Bucket) -> Asked:
    """Of what an allocator can be asked in a place, that which is nearest to half of the tokens in the prompt."""
    half = Fraction(sum(bucket.original), 2)
    targets = {asked: target for asked in taken if (target := asked.target(bucket)) is not None}
    return min(targets, key=lambda asked: abs(targets[asked] - half), default=taken[0])


def _serves(allocator: Allocator, place: Place) -> bool:
    sample = one_image(1)
    try:
        for asked in _taken(allocator, place, sample, "joint")[-1:]:
            for layer in place.layers:
                allocator.allocate(asked.request(sample, layer), asked.signals(allocator, sample, layer))
    except ComponentError:
        return False
    except Exception:
        return True  # the checks find it again, and say what it is
    return True


def chain(allocator: Allocator, asked: Asked, bucket: Bucket) -> list[Tensor]:
    """The counts of a bucket's first sample at each of the place's layers, as a stage runs through them.

    At a site that drops tokens, a layer finds what the one before it has left: here the first ones of each segment.
    """
    bucket = bucket.take([0])
    found: list[Tensor] = []
    for layer in asked.place.layers:
        if not bucket.vision:  # the engine asks nobody
            found.append(torch.zeros_like(found[-1]))
            continue
        signals = asked.signals(allocator, bucket, layer)
        found.append(allocator.allocate(asked.request(bucket, layer), signals).counts[0])
        if asked.place.kv_heads is None:
            bucket = _first(bucket, asked, [int(count) for count in found[-1]])
    return found


def _first(bucket: Bucket, asked: Asked, counts: list[int]) -> Bucket:
    sizes = asked.request(bucket, asked.place.layers[0]).sizes
    parts = bucket.alive.split(list(sizes), dim=1)
    return replace(bucket, alive=torch.cat([part[:, :n] for part, n in zip(parts, counts, strict=True)], dim=1))


def trials_of(allocator: Allocator) -> Iterator[Trial]:
    """In each place that the allocator serves, one budget; in the last one also on survivors of unequal images."""

    def call(inputs: Tensors, asked: Asked, bucket: Bucket, layer: int) -> Tensors:
        made = allocator.allocate(asked.request(bucket, layer), offered(allocator.needs(), bucket, inputs))
        values = [values.flatten().float().cpu() for _, values in sorted(made.diagnostics.items())]
        return {"counts": made.counts, "diagnostics": torch.cat(values) if values else torch.zeros(0)}

    buckets: dict[Scope, Bucket] = {"joint": one_image(), "image": like_survivors()}
    pairs = [
        (middling(taken, bucket), bucket)
        for scope, bucket in buckets.items()
        for taken in [*accepted(allocator, bucket, scope).values()][0 if scope == "joint" else -1 :]
    ]
    for asked, bucket in pairs:
        tensors = {str(need): tensor for need, tensor in tensors_for(allocator, bucket).items()}
        made = partial(call, asked=asked, bucket=bucket, layer=asked.place.layers[-1])
        yield Trial(str(asked), {**tensors, "alive": bucket.alive}, made, ON_CPU | {"counts", "diagnostics"})
