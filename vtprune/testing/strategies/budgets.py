"""Budgets in every unit."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from vtprune.core.budget import RATIOS, UNITS, Budget


@st.composite
def budgets(draw: st.DrawFn, units: Iterable[str] = UNITS, *, most: int = 24) -> Budget:
    """A budget of one of these units. most: tokens, of the units that count them.

    Ratios are 0, 1, shares as people write them, and any number in between; a budget may be out of reach where other
    layers hold tokens too.
    """
    unit = draw(st.sampled_from(list(units)))
    written = st.integers(0, 100).map(lambda part: part / 100)
    if unit in RATIOS:
        value = draw(st.sampled_from([0.0, 1.0]) | written | st.floats(0, 1))
    elif unit == "keep_tokens":
        value = float(draw(st.integers(0, most)))
    else:
        value = draw(st.integers(0, most).map(float) | st.floats(0, most))
    return Budget(unit=unit, value=value)  # type: ignore[arg-type]
