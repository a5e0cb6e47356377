"""Slow float64 references, written from the definitions: plain loops, everything recomputed at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


def cosine(x: Array, y: Array) -> float:
    """Cosine of two vectors."""
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def gram(x: Array) -> Array:
    """All cosines of the rows of ``x``."""
    return np.array([[cosine(a, b) for b in x] for a in x])


def by_score(scores: Sequence[float], count: int, protected: Sequence[int] = ()) -> list[int]:
    """Protected tokens, then the highest scores, ties to the lower index."""
    ranked = sorted(range(len(scores)), key=lambda i: (i not in protected, -scores[i], i))
    return sorted(ranked[:count])


def suppression(
    scores: Array, x: Array, count: int, tau: float, on_exhaustion: str, step: float, protected: Sequence[int] = ()
) -> list[int]:
    """Highest alive score first; everything too similar to a kept token is dead."""
    similar = gram(x)
    chosen: list[int] = []
    while len(chosen) < count:
        rest = [i for i in range(len(x)) if i not in chosen]
        seeds = [i for i in rest if i in protected]
        alive = seeds or [i for i in rest if all(similar[i, j] <= tau for j in chosen)]
        if not alive:
            if on_exhaustion == "stop":
                break
            if on_exhaustion == "relax" and tau < 1:
                tau += step
                continue
            alive = rest
        chosen.append(max(alive, key=lambda i: scores[i]))
    return sorted(chosen)


def distances(x: Array, metric: str) -> Array:
    """All distances of the rows of ``x``."""
    if metric == "cosine":
        return 1 - gram(x)
    return np.array([[np.linalg.norm(a - b) for b in x] for a in x])


def max_min(x: Array, count: int, metric: str, start: str, protected: Sequence[int] = ()) -> list[int]:
    """The order of greedy max-min picks after the protected tokens."""
    apart = distances(x, metric)
    chosen = list(protected)
    while len(chosen) < count:
        rest = [i for i in range(len(x)) if i not in chosen]
        if chosen:
            value = {i: min(apart[i, j] for j in chosen) for i in rest}
        elif start == "farthest_neighbour":
            value = {i: min(apart[i, j] for j in rest if j != i) for i in rest}
        else:
            points = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
            value = {i: float(np.linalg.norm(points[i] - points.mean(0))) for i in rest}
        chosen.append(max(rest, key=lambda i: value[i]))
    return chosen


def min_max(scores: Array, floor: float) -> Array:
    """Scores scaled into [floor, 1]."""
    return floor + (1 - floor) * (scores - scores.min()) / (scores.max() - scores.min())


def facility(similarity: Array, weights: Array, chosen: Sequence[int]) -> float:
    """How well the chosen tokens cover all."""
    return sum(
        weight * max((similarity[i, j] for j in chosen), default=0.0) for i, weight in enumerate(weights.tolist())
    )


def volume(kernel: Array, ridge: float, chosen: Sequence[int]) -> float:
    """log det(ridge I + kernel_S)."""
    part = kernel[np.ix_(list(chosen), list(chosen))]
    return float(np.linalg.slogdet(part + ridge * np.eye(len(part)))[1]) if len(part) else 0.0


def gains(value: Callable[[Sequence[int]], float], chosen: Sequence[int], vision: int) -> dict[int, float]:
    """What each token that is not chosen would add to ``value``."""
    return {i: value([*chosen, i]) - value(chosen) for i in range(vision) if i not in chosen}
