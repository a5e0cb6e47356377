"""From a budget to the exact number of tokens a stage may keep: the one place where units meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from vtprune.core.budget import Budget, largest_within, round_half_up
from vtprune.core.errors import BudgetError


class Cost(Protocol):
    """What resolving a ``flops_ratio`` asks of the cost model."""

    def prefill_with(self, vision: Sequence[int], text: int, logits: int = 1) -> int:
        """FLOPs of one sample's prefill with ``vision[l]`` vision tokens in layer l and ``text`` other tokens."""
        ...


@dataclass(frozen=True)
class Programme:
    """One sample as a stage finds it.

    original: vision tokens in the prompt; text: all other tokens.
    entering: per decoder layer, the vision tokens it holds if this stage did nothing (earlier stages applied); in the
        cache, where KV heads may hold different numbers, their exact mean. Whole numbers for a ``flops_ratio``.
    layers: the stage's layers; is_kv: whether it evicts from the cache rather than dropping hidden states.
    """

    original: int
    text: int
    entering: tuple[int | Fraction, ...]
    layers: tuple[int, ...]
    is_kv: bool
    cost: Cost

    @property
    def spans(self) -> tuple[int, ...]:
        """How many decoder layers the count of each of the stage's layers governs."""
        if self.is_kv:
            return (1,) * len(self.layers)
        ends = (*self.layers[1:], len(self.entering))
        return tuple(end - start for start, end in zip(self.layers, ends, strict=True))

    @property
    def governed(self) -> frozenset[int]:
        """The decoder layers whose token count the stage decides."""
        return frozenset(self.layers if self.is_kv else range(self.layers[0], len(self.entering)))


def resolve(budget: Budget, programme: Programme) -> Fraction:
    """Vision tokens to keep, averaged over the layers the stage governs.

    ``keep_tokens`` and ``keep_ratio`` give whole numbers (halves round up; a ratio above 0 keeps at least one token).
    The other units give the exact mean that meets the budget without exceeding it, given what the other layers hold.
    Raises BudgetError, with the reason, if nothing between dropping all and keeping all that is left meets the budget.
    """
    n = programme.original
    if n == 0:
        return Fraction(0)
    value = budget.exact
    if budget.unit == "keep_tokens":
        if value > n:
            raise BudgetError(
                f"budget {budget} asks for more vision tokens than the sample has ({n}); use a smaller number or "
                f"keep_ratio"
            )
        return value
    if budget.unit == "keep_ratio":
        return Fraction(min(n, max(round_half_up(value * n), 1 if value > 0 else 0)))
    if budget.unit == "mean_tokens_over_layers":
        return _mean_tokens(budget, programme, value * len(programme.entering), "mean_tokens_over_layers")
    if budget.unit == "kv_bytes_ratio":
        depth = len(programme.entering)
        return _mean_tokens(
            budget, programme, value * depth * (programme.text + n) - depth * programme.text, "kv_bytes_ratio"
        )
    return _flops(budget, programme)


def _mean_tokens(budget: Budget, programme: Programme, total: Fraction, unit: str) -> Fraction:
    governed = programme.governed
    held = sum(count for layer, count in enumerate(programme.entering) if layer not in governed)
    most = sum(programme.entering) - held
    if 0 <= total - held <= most:
        return (total - held) / len(governed)
    depth, rest = len(programme.entering), len(governed)
    low, high = Fraction(held) / depth, Fraction(held + most) / depth
    if unit == "kv_bytes_ratio":
        full = programme.text + programme.original
        low, high = ((bound + programme.text) / full for bound in (low, high))
    raise BudgetError(
        f"budget {budget} is out of reach: the {depth - rest} of {depth} layers that this stage does not govern hold "
        f"{float(held):.10g} vision tokens in sum, so {unit} can lie between {float(low):.4g} and {float(high):.4g}"
    )


def _flops(budget: Budget, programme: Programme) -> Fraction:
    if programme.is_kv:
        raise BudgetError(
            f"budget {budget} cannot be met at a .kv site: the prompt is computed in full before its cache is pruned; "
            f"use kv_bytes_ratio or keep_ratio"
        )
    depth, governed = len(programme.entering), programme.governed
    full = programme.cost.prefill_with([programme.original] * depth, programme.text)

    def ratio(count: int) -> Fraction:
        held = [min(count, int(n)) if layer in governed else int(n) for layer, n in enumerate(programme.entering)]
        return Fraction(programme.cost.prefill_with(held, programme.text), full)

    count = largest_within(lambda k: ratio(k) <= budget.exact, 0, programme.original)
    if count is None:
        raise BudgetError(
            f"budget {budget} is out of reach: with no vision token after layer {min(governed)} the prefill still "
            f"costs {float(ratio(0)):.4g} of the unpruned one"
        )
    return Fraction(count)
