"""Retention that falls with depth: the shapes, and the integers that meet a budget with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache


def linear(layers: Sequence[int], end: float) -> list[Fraction]:
    """``[layer]`` from 1 at the first of ``layers`` in a straight line over depth to ``end`` at the last."""
    fall, length = 1 - Fraction(repr(end)), max(1, layers[-1] - layers[0])
    return [1 - fall * (layer - layers[0]) / length for layer in layers]


def geometric(layers: Sequence[int], ratio: float) -> list[Fraction]:
    """``[layer]`` 1, ratio, ratio**2, ...: each of ``layers`` keeps ``ratio`` of what the one before it keeps."""
    return [Fraction(repr(ratio)) ** step for step in range(len(layers))]


@lru_cache(maxsize=256)
def sigmoid(layers: tuple[int, ...], spans: tuple[int, ...], steepness: float, share: Fraction) -> tuple[Fraction, ...]:
    """``[layer]`` 1 / (1 + exp(steepness * (layer - midpoint))), with the midpoint that makes their mean, weighted by
    ``spans``, equal to ``share`` (0 to 1), found by bisection."""

    def rates(midpoint: float) -> list[float]:
        return [1 / (1 + math.exp(min(700.0, steepness * (layer - midpoint)))) for layer in layers]

    goal, reach = float(share) * sum(spans), 700 / steepness
    low, high = layers[0] - reach, layers[-1] + reach
    for _ in range(200):
        middle = (low + high) / 2
        held = sum(span * rate for span, rate in zip(spans, rates(middle), strict=True))
        low, high = (middle, high) if held < goal else (low, middle)
    return tuple(Fraction(rate) for rate in rates(high))


@lru_cache(maxsize=256)
def fit(weights: tuple[Fraction, ...], spans: tuple[int, ...], cap: int, target: Fraction) -> tuple[int, ...]:
    """Counts ``[layer]`` in proportion to ``weights``, whose mean weighted by ``spans`` comes as near to ``target`` as
    rounding each one up or down allows, and never exceeds it.

    weights: not increasing, the first above 0. No count exceeds ``cap``: what that cuts off scales up the others (and
    goes evenly to layers of weight 0 once no other is left). Counts do not increase over the layers. Among equally
    near choices the largest remainders are rounded up, then the earliest layers.
    """
    total = min(target, Fraction(cap)) * sum(spans)
    exact = _scale(weights, spans, cap, total)
    floors = [math.floor(value) for value in exact]
    spare = math.floor(total - sum(span * floor for span, floor in zip(spans, floors, strict=True)))

    choices: dict[tuple[int, int], tuple[Fraction, tuple[int, ...]]] = {(1, 0): (Fraction(0), ())}
    for index, (value, span) in enumerate(zip(exact, spans, strict=True)):
        level = index > 0 and floors[index] == floors[index - 1]
        longer: dict[tuple[int, int], tuple[Fraction, tuple[int, ...]]] = {}
        for (before, used), (gain, ups) in choices.items():
            can_rise = value > floors[index] and used + span <= spare and (before or not level)
            for up in (1, 0) if can_rise else (0,):
                key, entry = (up, used + up * span), (gain + up * (value - floors[index]), (*ups, up))
                longer[key] = max(longer.get(key, entry), entry)
        choices = longer
    (_, _), (_, ups) = max(choices.items(), key=lambda choice: (choice[0][1], choice[1]))
    return tuple(floor + up for floor, up in zip(floors, ups, strict=True))


def _scale(weights: Sequence[Fraction], spans: Sequence[int], cap: int, total: Fraction) -> list[Fraction]:
    """``[layer]`` scaled weights whose sum, weighted by ``spans``, is ``total``, the first ones capped as needed."""
    values: list[Fraction] = []
    for full in range(len(weights)):
        rest = total - cap * sum(spans[:full])
        mass = sum((span * weight for span, weight in zip(spans[full:], weights[full:], strict=True)), Fraction(0))
        scaled = [rest * weight / mass if mass else rest / sum(spans[full:]) for weight in weights[full:]]
        values = [*[Fraction(cap)] * full, *scaled]
        if scaled[0] <= cap:
            break
    return values
