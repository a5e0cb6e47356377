"""Candidates for selectors: any number of rows and tokens, protected tokens, and counts that can be met."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from vtprune.core.component import Candidates
from vtprune.testing.inputs.candidates import candidates as of
from vtprune.testing.strategies.features import features
from vtprune.testing.strategies.scores import scores


@st.composite
def candidates(
    draw: st.DrawFn, *, vision: int | None = None, most: int = 14, negative: bool = False, protected: bool = True
) -> Candidates:
    """Candidates with scores and degenerate features of any dtype, for one to three rows.

    vision: the number of tokens, by default 1 to ``most``. negative: whether scores may be below 0. protected: whether
    some tokens (about one of five) may be. Counts hold at least the protected tokens, and differ between the rows.
    """
    rows = draw(st.integers(1, 3))
    tokens = draw(st.integers(1, most)) if vision is None else vision
    marks = draw(st.lists(st.integers(0, 4), min_size=rows * tokens, max_size=rows * tokens))
    shielded = torch.tensor(marks, dtype=torch.int64).view(rows, tokens).eq(0) & protected
    counts = [draw(st.integers(int(row.sum()), tokens)) for row in shielded]
    return of(counts, draw(scores(rows, tokens, negative=negative)), draw(features(rows, tokens)), shielded)
