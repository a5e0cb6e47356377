"""The checks of adapters, which lie in `vtprune.testing.adapter_suite`."""

from vtprune.testing.adapter_suite import (
    boundary,
    context,
    declaration,
    geometry,
    keeping,
    lengths,
    order,
    removal,
    rows,
    sharing,
    signals,
)

__all__ = [
    "boundary",
    "context",
    "declaration",
    "geometry",
    "keeping",
    "lengths",
    "order",
    "removal",
    "rows",
    "sharing",
    "signals",
]
