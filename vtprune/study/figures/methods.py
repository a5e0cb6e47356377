"""What figures call a method: a variant without its budget and its seed.

The points of one line of a figure are the budgets of one method, and a point is a mean over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vtprune.study.cell import Variant
from vtprune.study.names import LENT
from vtprune.study.statistics.panel import last


@dataclass(frozen=True)
class Method:
    """name: the label and every axis but budget and seed. label, role, of: of its `vtprune.study.cell.Variant`s."""

    name: str
    label: str
    role: str
    of: str | None = None


def name_without(axes: Mapping[str, Any] | None, label: str, hidden: tuple[str, ...]) -> str:
    """The variant's name without the axes whose last part (``seed`` of ``stages.0.seed``) is in ``hidden``, and without
    those that a factorial lends it, as `Arm.name` has it."""
    own = {axis: value for axis, value in (axes or {}).items() if not axis.startswith(LENT)}
    shown = {axis: value for axis, value in own.items() if last(axis) not in hidden}
    return Variant(label, "recipe", axes=shown).name


def with_names(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy with the columns ``method`` (label and axes without budget and seed) and ``variant`` (without seed)."""
    named = frame.copy()
    pairs = list(zip(frame["label"], frame["axes"], strict=True))
    for column, hidden in (("method", ("budget", "seed")), ("variant", ("seed",))):
        names = [name_without(axes, str(label), hidden) for label, axes in pairs]
        named[column] = pd.Series(names, index=frame.index, dtype=object)
    return named


def variants(frame: pd.DataFrame) -> list[str]:
    """Names of a frame's variants, those of one method together."""
    named = with_names(frame)
    order = {method: place for place, method in enumerate(dict.fromkeys(named["method"]))}
    return list(
        dict.fromkeys(named.sort_values("method", key=lambda names: names.map(order), kind="stable")["variant"])
    )


def methods(frame: pd.DataFrame) -> list[Method]:
    """Those of a frame with ``label``, ``role``, ``of`` and ``axes``, in order of first appearance."""
    found: dict[str, Method] = {}
    for row in with_names(frame).itertuples():
        of = row.of if isinstance(row.of, str) else None
        found.setdefault(str(row.method), Method(str(row.method), str(row.label), str(row.role), of))
    return list(found.values())
