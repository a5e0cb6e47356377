"""The strategies for selectors make what they promise, also the rare cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, find, given, settings

from vtprune.core.component import Candidates
from vtprune.testing.inputs.candidates import FEATURES
from vtprune.testing.strategies.candidates import candidates
from vtprune.testing.strategies.features import features
from vtprune.testing.strategies.scores import scores

few = settings(deadline=None, max_examples=40)
once = settings(deadline=None, max_examples=1000, database=None, phases=[Phase.generate])


@few
@given(candidates(negative=True))
def test_candidates_keep_their_contract(drawn: Candidates) -> None:
    rows = len(drawn.counts)
    assert drawn.scores is not None
    assert drawn.features is not None
    assert drawn.scores.shape == drawn.protected.shape == (rows, drawn.vision)
    assert drawn.features.shape[:2] == (rows, drawn.vision)
    assert (drawn.scores.dtype, drawn.protected.dtype, drawn.counts.dtype) == (torch.float32, torch.bool, torch.int64)
    assert not drawn.scores.isnan().any()
    assert drawn.features.isfinite().all()
    assert (drawn.protected.sum(-1) <= drawn.counts).all()
    assert (drawn.counts <= drawn.vision).all()


RARE: dict[str, Callable[[Candidates], bool]] = {
    "ties": lambda c: c.vision > 3 and any(len(row.unique()) < c.vision for row in c.scores),
    "always": lambda c: bool((c.scores == torch.inf).any()),
    "never": lambda c: bool((c.scores == -torch.inf).any()),
    "denormal": lambda c: bool(((c.scores > 0) & (c.scores < torch.finfo(torch.float32).tiny)).any()),
    "below 0": lambda c: bool((c.scores < 0).any()),
    "protected": lambda c: bool(c.protected.any() and not c.protected.all()),
    "half precision": lambda c: c.features.dtype == torch.float16,
    "unequal counts": lambda c: len(c.counts.unique()) > 1,
    "one token": lambda c: c.vision == 1,
}


@pytest.mark.parametrize("what", RARE)
def test_rare_cases_are_drawn(what: str) -> None:
    find(candidates(negative=True), RARE[what], settings=once)


@few
@given(scores(2, 6, infinite=False))
def test_scores_stay_within_what_was_asked_for(drawn: torch.Tensor) -> None:
    assert drawn.isfinite().all()
    assert (drawn >= 0).all()


@pytest.mark.parametrize("kind", FEATURES)
def test_every_kind_of_features_can_be_drawn(kind: str) -> None:
    made = find(features(2, 6, kinds=[kind], dtypes=[torch.bfloat16]), lambda _: True, settings=once)
    assert made.dtype == torch.bfloat16
    assert made.shape[:2] == (2, 6)
