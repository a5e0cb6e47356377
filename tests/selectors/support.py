"""Selectors in many settings, and the order of greedy picks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hypothesis import settings

from vtprune.core.component import Candidates, Selector
from vtprune.core.spec import build
from vtprune.testing.inputs.candidates import candidates as of
from vtprune.testing.inputs.candidates import noise

__all__ = ["GREEDY", "SPECS", "few", "kept", "make", "noise", "of", "order"]

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
