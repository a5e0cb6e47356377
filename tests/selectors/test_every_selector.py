"""What every selector owes: the conformance checks in every setting, and the same on inputs of hypothesis."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.selectors.support import GREEDY, SPECS, few, kept, make, noise, of
from vtprune.builtins import SELECTORS
from vtprune.core.component import Candidates, Selector
from vtprune.core.errors import ComponentError
from vtprune.selectors import greedy, max_min, similarity
from vtprune.testing import Check, parametrize_with_checks
from vtprune.testing.inputs.candidates import row
from vtprune.testing.strategies.candidates import candidates

everything = pytest.mark.parametrize("name", SPECS)


@parametrize_with_checks(*map(make, SPECS), in_model=False)
def test_conformance(component: Selector, check: Check) -> None:
    check(component)


def test_all_built_in_selectors_are_tested() -> None:
    assert {spec["name"] for spec in SPECS.values()} == set(SELECTORS)


@everything
@few
@given(candidates=candidates())
def test_any_candidates(name: str, candidates: Candidates) -> None:
    """Counts, protection, the independence of rows and purity, on whatever hypothesis comes up with."""
    selector = make(name)
    tensors = [candidates.counts, candidates.scores, candidates.features, candidates.protected]
    before = [tensor.clone() for tensor in tensors]
    mask = selector.select(candidates)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))
    assert torch.equal(mask, selector.select(candidates))
    assert not (candidates.protected & ~mask).any()
    if selector.count_is_exact:
        assert mask.sum(-1).tolist() == candidates.counts.tolist()
    else:
        assert (mask.sum(-1) <= candidates.counts).all()
    alone = [selector.select(row(candidates, [index]))[0] for index in range(len(mask))]
    assert torch.equal(torch.stack(alone), mask)


@everything
def test_rows_of_real_size_do_not_depend_on_each_other(name: str) -> None:
    scores, features = noise(3, 130, 33)
    features[1] = features[1, :1]
    features[2, 65:] = features[2, :65]
    selector = make(name)
    alone = [kept(selector, of(count, scores[row], features[row]))[0] for row, count in enumerate([5, 60, 100])]
    assert kept(selector, of([5, 60, 100], scores, features)) == alone


@pytest.mark.parametrize("name", [name for name in SPECS if name != "facility relu"])
@settings(few, max_examples=10)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12))
def test_permuting_the_tokens_permutes_the_choice(name: str, seed: int, count: int) -> None:
    """Two tokens that resemble nothing but each other tie, in unweighted coverage and at the start of max_min; hence
    one selector is left out, and those without scores are given a first token."""
    scores, features = noise(1, 12, 5, seed)
    protected = torch.zeros(1, 12, dtype=torch.bool)
    protected[0, 0] = not make(name).uses_scores
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    mask = make(name).select(of(count, scores, features, protected))
    shuffled = make(name).select(of(count, scores[:, shuffle], features[:, shuffle], protected[:, shuffle]))
    assert torch.equal(mask[:, shuffle], shuffled)


@everything
def test_what_is_declared_is_required(name: str) -> None:
    selector, full = make(name), of([5, 4], *noise(2, 10))
    if selector.uses_scores:
        with pytest.raises(ComponentError, match="needs a scorer"):
            selector.select(replace(full, scores=None))
    if selector.feature_source:
        with pytest.raises(ComponentError, match="feature_source"):
            selector.select(replace(full, features=None))


@pytest.mark.parametrize("name", [name for name in SPECS if make(name).feature_source])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    scores, features = noise(1, 10)
    features[0, 4, 2] = bad
    with pytest.raises(ComponentError, match="in 1 of 10 tokens"):
        make(name).select(of(5, scores, features))


@pytest.mark.parametrize("name", GREEDY)
def test_the_feature_option_names_the_source(name: str) -> None:
    assert make(name).feature_source == "features"
    assert make({**SPECS[name], "feature": "keys"}).feature_source == "keys"


@pytest.mark.parametrize("name", GREEDY)
def test_rows_on_demand_and_one_row_at_a_time_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, features = noise(3, 90, 16)
    features[2, 50:60] = 0
    protected = torch.zeros(3, 90, dtype=torch.bool)
    protected[0, [3, 70]] = True
    candidates = of([30, 7, 50], scores, features, protected)
    monkeypatch.setattr(similarity, "ROWS_PAY_BELOW", 0)
    expected = kept(make(name), candidates)
    monkeypatch.setattr(similarity, "ROWS_PAY_BELOW", 2)
    monkeypatch.setattr(similarity, "BLOCK", 32)
    monkeypatch.setattr(max_min, "ENTRIES", 1)
    assert kept(make(name), candidates) == expected
    monkeypatch.setattr(greedy, "ENTRIES", 1)
    assert kept(make(name), candidates) == expected
