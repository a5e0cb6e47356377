"""Candidates for tests, orders of greedy picks, and difficult inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from vtprune.core.component import Candidates, Selector
from vtprune.core.spec import build

torch.set_num_threads(1)
few = settings(deadline=None, max_examples=25)

SPECS: dict[str, dict[str, Any]] = {
    "top_k": {"name": "top_k"},
    "threshold": {"name": "threshold", "value": 0.5},
    "threshold max": {"name": "threshold", "value": 0.5, "relative": "max", "minimum": 2},
    "threshold mean": {"name": "threshold", "value": 1.0, "relative": "mean"},
    "top_p": {"name": "top_p", "p": 0.6},
    "suppression fill": {"name": "greedy_suppression", "threshold": 0.3},
    "suppression stop": {"name": "greedy_suppression", "threshold": 0.3, "on_exhaustion": "stop"},
    "suppression relax": {"name": "greedy_suppression", "threshold": 0.1, "on_exhaustion": "relax"},
    "max_min": {"name": "max_min"},
    "max_min mean": {"name": "max_min", "start": "farthest_from_mean"},
    "max_min euclidean": {"name": "max_min", "metric": "euclidean"},
    "max_min euclidean mean": {"name": "max_min", "metric": "euclidean", "start": "farthest_from_mean"},
    "facility": {"name": "facility_location"},
    "facility relu": {"name": "facility_location", "similarity": "relu", "weight": "none"},
    "log_det": {"name": "log_det"},
    "log_det plain": {"name": "log_det", "ridge": 0.0, "strength": 2.0},
    "log_det diverse": {"name": "log_det", "weight": "none"},
    "union": {"name": "union", "share": 0.5, "first": "top_k", "second": {"name": "max_min"}},
    "union nested": {
        "name": "union",
        "share": 0.7,
        "first": {"name": "union", "share": 0.3, "first": "top_k", "second": "facility_location"},
        "second": "greedy_suppression",
    },
}
GREEDY = [name for name in SPECS if not name.startswith(("top", "threshold", "union"))]


def make(spec: str | Mapping[str, Any]) -> Selector:
    """The selector behind a label of `SPECS`, or a specification."""
    built = build("selector", SPECS[spec] if isinstance(spec, str) else dict(spec))
    assert isinstance(built, Selector)
    return built


def of(
    counts: int | Sequence[int],
    scores: Tensor | None = None,
    features: Tensor | None = None,
    protected: Tensor | None = None,
) -> Candidates:
    """Candidates from tensors with a row axis, or of a single row without one."""
    scores = scores[None] if scores is not None and scores.dim() == 1 else scores
    features = features[None] if features is not None and features.dim() == 2 else features
    given = scores if scores is not None else features
    assert given is not None
    rows, vision = given.shape[:2]
    if protected is None:
        protected = torch.zeros(rows, vision, dtype=torch.bool)
    if isinstance(counts, int):
        counts = [counts] * rows
    return Candidates(torch.tensor(counts), vision, scores, features, protected.view(rows, vision))


def noise(rows: int, vision: int, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores ``[row, vision]`` in (0, 1) and features ``[row, vision, dim]``, free of ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, vision, generator=generator), torch.randn(rows, vision, dim, generator=generator)


def difficult(kind: str, rows: int, vision: int, dim: int, seed: int) -> Tensor:
    """Features that break careless code."""
    _, random = noise(rows, vision, dim, seed)
    return {
        "random": random,
        "constant": random[:, :1].expand(rows, vision, dim).clone(),
        "zeros": torch.zeros(rows, vision, dim),
        "some zeros": random * (torch.arange(vision) % 3 > 0).view(1, -1, 1),
        "duplicates": random[:, torch.arange(vision) % max(1, vision // 3)],
        "near duplicates": random[:, :1] + 1e-4 * random,
        "rank one": random[..., :1] * random[:, :1],
        "huge": random * 1e30,
        "tiny": random * 1e-30,
    }[kind]


KINDS = [
    "random",
    "constant",
    "zeros",
    "some zeros",
    "duplicates",
    "near duplicates",
    "rank one",
    "huge",
    "tiny",
]


def kept(selector: Selector, candidates: Candidates) -> list[list[int]]:
    """Kept indices of every row, ascending."""
    mask = selector.select(candidates)
    assert mask.dtype == torch.bool
    assert mask.shape == candidates.protected.shape
    return [row.nonzero().flatten().tolist() for row in mask]


def order(selector: Selector, candidates: Candidates) -> list[int]:
    """The order in which a greedy selector takes the tokens of its only row, from growing counts."""
    taken: list[int] = []
    for count in range(1, int(candidates.counts[0]) + 1):
        now = set(kept(selector, replace(candidates, counts=torch.tensor([count])))[0])
        (new,) = now - set(taken)
        assert len(now) == count, "a smaller budget must keep a subset"
        taken.append(new)
    return taken
