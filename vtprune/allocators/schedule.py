"""Schedule: retention per layer from a table or from a shape that falls with depth."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from vtprune.allocators import shapes
from vtprune.allocators.segments import for_batch, over_segments
from vtprune.core.budget import round_half_up
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.errors import ComponentError
from vtprune.core.signals import Signals

if TYPE_CHECKING:
    from vtprune.core.budget import Budget

Share = Annotated[float, Field(ge=0, le=1)]
Layer = Annotated[int, Field(ge=0)]
PARAMETER = {"table": "table", "linear": "end", "geometric": "ratio", "sigmoid": "steepness"}


class Schedule(Allocator):
    """How many vision tokens each of the stage's layers keeps, fixed before the model runs.

    shape: ``table`` states every layer's share. The others give a course over depth, which is scaled until the counts,
        each weighted by the layers it governs, meet the stage's budget as nearly as rounding each up or down allows,
        never exceeding it and never rising. No layer gets more than the prompt has; what that cuts off goes to the
        others.
    table: layer to share of the prompt's vision tokens (nearest integer, halves up, at least 1 for a share above 0),
        for exactly the layers of the stage. At a ``.kv`` site a layer may have one share per KV head: that is how
        heads get budgets of different size.
    end: ``linear`` falls in a straight line over depth; this is the last layer's count over the first's.
    ratio: ``geometric``; each layer of the stage keeps this part of what the one before kept (PyramidDrop, arXiv
        2410.17247, has 0.5 at three layers).
    steepness: ``sigmoid``; share 1 / (1 + exp(steepness * (layer - midpoint))), the midpoint solved from the budget.
        P-Sigmoid (arXiv 2412.00556) has this form; the sign under which retention falls with depth, and solving for
        the midpoint, are our reading, as the paper's text could not be read.

    A parameter that belongs to another shape is an error.
    """

    shape: Literal["table", "linear", "geometric", "sigmoid"]
    table: Annotated[dict[Layer, Share | tuple[Share, ...]], Field(min_length=1)] | None = None
    end: Share | None = None
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    steepness: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def __hash__(self) -> int:
        table = None if self.table is None else frozenset(self.table.items())
        return hash((self.shape, table, self.end, self.ratio, self.steepness))

    @model_validator(mode="after")
    def _parameters_of_the_shape(self) -> Schedule:
        wanted, problems = PARAMETER[self.shape], []
        for shape, name in PARAMETER.items():
            given = getattr(self, name) is not None
            if given and name != wanted:
                problems.append(f"{name} acts only with shape: {shape}, but shape is {self.shape}; remove {name}")
            if not given and name == wanted:
                problems.append(f"shape: {self.shape} needs the parameter {name!r}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(shape="linear", end=0.2),
            cls(shape="geometric", ratio=0.5),
            cls(shape="sigmoid", steepness=1.5),
            cls(shape="table", table={1: 0.5, 2: 0.25, 3: 0.125}),
            cls(shape="table", table={1: (0.5, 0.2), 2: 0.3, 3: (0.1, 0.4)}),
        )

    def budget_problem(self, budget: Budget | None) -> str | None:
        if self.shape == "table":
            return None if budget is None else f"its table states every count, so the budget ({budget}) must go"
        return super().budget_problem(budget)

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        """int64 ``[batch, segment]``, or ``[batch, kv_head, segment]`` for a layer whose table entry is per head.

        Raises ComponentError if the table does not fit the stage's layers or the model's KV heads, and ValueError if
        another shape has no target.
        """
        if self.table is not None:
            self._check_table(self.table, request)
            share = self.table[request.layer]
            if isinstance(share, tuple):
                heads = [over_segments(_count(part, request), request) for part in share]
                return Allocation(for_batch(heads, signals.batch))
            return Allocation(for_batch(over_segments(_count(share, request), request), signals.batch))
        if request.target is None:
            raise ValueError(f"schedule of shape {self.shape} has no budget")
        cap = sum(request.original)
        counts = shapes.fit(tuple(self._weights(request, cap)), request.spans, cap, request.target)
        count = counts[request.layers.index(request.layer)]
        return Allocation(for_batch(over_segments(count, request), signals.batch))

    def _weights(self, request: AllocationRequest, cap: int) -> Sequence[Fraction]:
        if self.end is not None:
            return shapes.linear(request.layers, self.end)
        if self.ratio is not None:
            return shapes.geometric(request.layers, self.ratio)
        assert self.steepness is not None
        assert request.target is not None
        share = request.target / cap if cap else Fraction(0)
        return shapes.sigmoid(request.layers, request.spans, self.steepness, share)

    def _check_table(self, table: dict[int, float | tuple[float, ...]], request: AllocationRequest) -> None:
        missing, spare = sorted({*request.layers} - {*table}), sorted({*table} - {*request.layers})
        if missing or spare:
            faults = [f"{word} {layers}" for word, layers in (("lacks", missing), ("also has", spare)) if layers]
            raise ComponentError(
                f"the schedule's table {' and '.join(faults)}; the stage prunes at layers {list(request.layers)} "
                f"(counted from 0), and the table must have exactly these"
            )
        for layer, share in table.items():
            if isinstance(share, tuple) and request.kv_heads is None:
                raise ComponentError(
                    f"the schedule's table has one share per KV head for layer {layer}, but this stage drops whole "
                    f"tokens; use one share per layer, or a .kv site"
                )
            if isinstance(share, tuple) and len(share) != request.kv_heads:
                raise ComponentError(
                    f"the schedule's table has {len(share)} shares for layer {layer}, but the model has "
                    f"{request.kv_heads} KV heads"
                )
        for before, after in pairwise(request.layers) if request.kv_heads is None else ():
            if table[after] > table[before]:  # type: ignore[operator]
                raise ComponentError(
                    f"the schedule's table rises from {table[before]} at layer {before} to {table[after]} at layer "
                    f"{after}, but a dropped token does not come back; let the shares fall, or use a .kv site"
                )


def _count(share: float, request: AllocationRequest) -> int:
    return max(round_half_up(Fraction(repr(share)) * sum(request.original)), 1 if share > 0 else 0)
