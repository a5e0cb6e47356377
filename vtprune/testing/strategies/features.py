"""Features: random ones, and all kinds of degenerate ones, in any dtype that a model may have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from vtprune.testing.inputs.candidates import FEATURES, hard_features

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def features(
    draw: st.DrawFn,
    rows: int,
    vision: int,
    *,
    most: int = 5,
    kinds: Sequence[str] = FEATURES,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> Tensor:
    """float ``[row, vision, dim]`` with dim from 1 to ``most``; finite, clamped to what the dtype holds.

    kinds: of `hard_features`: duplicates, rank one, zeros, huge, denormal and more.
    """
    kind, dim, seed = draw(st.sampled_from(kinds)), draw(st.integers(1, most)), draw(st.integers(0, 99))
    dtype = draw(st.sampled_from(dtypes))
    limit = torch.finfo(dtype).max
    return hard_features(kind, rows, vision, dim, seed).clamp(-limit, limit).to(dtype)
