"""Scores: ordinary ones, ties, infinities and numbers barely above 0."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

FEW = (0.0, 0.25, 0.5, 1.0)
"""Values that repeat, so that there are ties."""
EXTREME = (torch.inf, -torch.inf, 1e-42, 1e-30, 1e30)


@st.composite
def scores(draw: st.DrawFn, rows: int, vision: int, *, infinite: bool = True, negative: bool = False) -> Tensor:
    """float32 ``[row, vision]`` without NaN, with many ties.

    infinite: with +inf and -inf among them. negative: not only scores of at least 0, which some selectors insist on.
    """
    values = [*FEW, *(value for value in EXTREME if infinite or abs(value) < torch.inf)]
    if negative:
        values += [-value for value in values if value]
    numbers = st.one_of(st.sampled_from(values), st.floats(-1.0 if negative else 0.0, 1.0, width=32))
    drawn = draw(st.lists(numbers, min_size=rows * vision, max_size=rows * vision))
    return torch.tensor(drawn, dtype=torch.float32).view(rows, vision)
