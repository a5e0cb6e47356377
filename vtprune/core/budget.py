"""Budgets: a number with a unit, and the one place where it becomes exact integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from vtprune.core.errors import did_you_mean

Unit = Literal["keep_tokens", "keep_ratio", "mean_tokens_over_layers", "flops_ratio", "kv_bytes_ratio"]
UNITS: tuple[str, ...] = get_args(Unit)
RATIOS = ("keep_ratio", "flops_ratio", "kv_bytes_ratio")


class Budget(BaseModel):
    """How much a stage may keep.

    keep_tokens: vision tokens per sample.
    keep_ratio: share of the sample's vision tokens in the prompt, 0 to 1.
    mean_tokens_over_layers: vision tokens per sample, averaged over all decoder layers; layers before the stage
        count with what they hold.
    flops_ratio: prefill FLOPs of the language model relative to the unpruned prompt, 0 to 1.
    kv_bytes_ratio: KV-cache bytes after prefill relative to the unpruned prompt, 0 to 1.

    Written as ``{unit: value}``; a bare number up to 1 is a ``keep_ratio``, a bare integer above 1 ``keep_tokens``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    value: Annotated[float, Field(strict=True)]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if isinstance(data, bool):
            raise ValueError(f"a budget is a number or {{unit: value}}, got {data!r}")
        if isinstance(data, int | float):
            if isinstance(data, float) and data > 1:
                raise ValueError(
                    f"budget {data} is above 1 and not an integer; write {{keep_ratio: ...}} with a share up to 1, "
                    f"or an integer number of tokens"
                )
            return {"unit": "keep_tokens" if data > 1 else "keep_ratio", "value": data}
        if isinstance(data, dict) and not {"unit", "value"} & data.keys():
            if len(data) != 1:
                raise ValueError(f"a budget has exactly one unit, got {sorted(data) or 'none'}; units: {UNITS}")
            unit, value = next(iter(data.items()))
            if unit not in UNITS:
                raise ValueError(f"unknown budget unit {unit!r}.{did_you_mean(str(unit), UNITS)}")
            return {"unit": unit, "value": value}
        if isinstance(data, str):
            raise ValueError(f"a budget is a number or {{unit: value}}, got the text {data!r}")
        return data

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if not math.isfinite(self.value) or self.value < 0:
            raise ValueError(f"budget {self.unit}={self.value} must be a finite number of at least 0")
        if self.unit in RATIOS and self.value > 1:
            raise ValueError(f"{self.unit}={self.value} is above 1; a ratio lies between 0 and 1")
        if self.unit == "keep_tokens" and self.value != int(self.value):
            raise ValueError(f"keep_tokens={self.value} must be a whole number of tokens")
        return self

    @model_serializer
    def _write(self) -> dict[str, float | int]:
        return {self.unit: int(self.value) if self.unit == "keep_tokens" else self.value}

    def __str__(self) -> str:
        return f"{self.unit}={self.value:g}"

    @property
    def exact(self) -> Fraction:
        """The value as the decimal number that was written, free of binary rounding."""
        return Fraction(repr(self.value))


def round_half_up(value: Fraction) -> int:
    """Nearest integer, halves upwards (Python's round sends halves to even, which would keep 2 of 5 at 50 %)."""
    return math.floor(value + Fraction(1, 2))


def apportion(total: int, weights: Sequence[Fraction | float | int], caps: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights`` without exceeding ``caps``, by largest remainder.

    Ties go to the lower index; what a cap cuts off goes to the others in proportion. The parts sum to ``total``.
    Raises ValueError if ``total`` exceeds the sum of the caps.
    """
    if not 0 <= total <= sum(caps):
        raise ValueError(f"cannot split {total} over caps {list(caps)}, which sum to {sum(caps)}")
    exact = [Fraction(w) for w in weights]
    parts = [0] * len(caps)
    open_slots = [i for i, cap in enumerate(caps) if cap > 0]
    rest = total
    while rest and open_slots:
        mass = sum((exact[i] for i in open_slots), Fraction(0))
        share = {i: rest * (exact[i] / mass if mass else Fraction(1, len(open_slots))) for i in open_slots}
        full = [i for i in open_slots if share[i] >= caps[i]]
        if full:
            for i in full:
                parts[i] = caps[i]
                rest -= caps[i]
            open_slots = [i for i in open_slots if i not in full]
            continue
        for i in open_slots:
            parts[i] = math.floor(share[i])
        left = rest - sum(parts[i] for i in open_slots)
        for i in sorted(open_slots, key=lambda i: (parts[i] - share[i], i))[:left]:
            parts[i] += 1
        break
    return parts


def largest_within(limit: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest n in [low, high] with ``limit(n)``, for a limit that holds below and fails above; None if none."""
    if low > high or not limit(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if limit(middle) else (low, middle - 1)
    return low
