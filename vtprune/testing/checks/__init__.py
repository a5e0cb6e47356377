"""Every conformance check; importing this package puts them on the list."""

from __future__ import annotations

from vtprune.testing.checks import (
    adapters,
    allocators,
    behaviour,
    common,
    devices,
    in_model,
    in_model_safety,
    parameters,
    purity,
    randomness,
    reading,
    reducers,
    scorer_values,
    scorers,
    selector_values,
    selectors,
    tasks,
)

__all__ = [
    "adapters",
    "allocators",
    "behaviour",
    "common",
    "devices",
    "in_model",
    "in_model_safety",
    "parameters",
    "purity",
    "randomness",
    "reading",
    "reducers",
    "scorer_values",
    "scorers",
    "selector_values",
    "selectors",
    "tasks",
]
