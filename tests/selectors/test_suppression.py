"""Greedy suppression of near-duplicates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.selectors.reference import cosine, suppression
from tests.selectors.support import few, kept, noise, of
from vtprune.selectors.suppression import RELAX_STEP, GreedySuppression

X = torch.tensor([[1, 0], [0.99, 0.1], [0, 1], [-1, 0], [0.5, 0.5]])
W = torch.tensor([cosine(x, X[0].numpy()) for x in X.numpy()])


def test_the_example_by_hand() -> None:
    assert kept(GreedySuppression(threshold=0.9), of(3, W, X)) == [[0, 2, 4]]


def test_on_exhaustion() -> None:
    """At 0.5, token 0 suppresses 1 and 4; 2 and 3 stay alive; then nothing is left."""
    strict = {"threshold": 0.5}
    assert kept(GreedySuppression(**strict), of(4, W, X)) == [[0, 1, 2, 3]]
    assert kept(GreedySuppression(**strict, on_exhaustion="stop"), of(4, W, X)) == [[0, 2, 3]]
    assert kept(GreedySuppression(**strict, on_exhaustion="relax"), of(4, W, X)) == [[0, 2, 3, 4]]
    assert kept(GreedySuppression(**strict, on_exhaustion="relax", relax_step=0.6), of(4, W, X)) == [[0, 1, 2, 3]]


@few
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 16),
    tau=st.sampled_from([-0.2, 0.0, 0.3, 0.6, 0.9, 1.0]),
    on_exhaustion=st.sampled_from(["fill", "stop", "relax"]),
    step=st.sampled_from([0.05, 0.13, 0.5]),
    seeds=st.sets(st.integers(0, 15), max_size=3),
)
def test_equals_the_definition(
    seed: int, count: int, tau: float, on_exhaustion: str, step: float, seeds: set[int]
) -> None:
    scores, features = noise(1, 16, 3, seed)
    count = max(count, len(seeds))
    options = {"relax_step": step} if on_exhaustion == "relax" else {}
    selector = GreedySuppression(threshold=tau, on_exhaustion=on_exhaustion, **options)
    protected = torch.tensor([i in seeds for i in range(16)])
    x, w = features[0].double().numpy(), scores[0].double().numpy()
    expected = suppression(w, x, count, tau, on_exhaustion, step, sorted(seeds))
    assert kept(selector, of(count, scores, features, protected)) == [expected]


def test_stop_keeps_no_pair_above_the_threshold_and_no_score_of_minus_infinity() -> None:
    scores, features = noise(1, 60, 4)
    scores[0, 7] = -torch.inf
    (found,) = kept(GreedySuppression(threshold=0.5, on_exhaustion="stop"), of(60, scores, features))
    x = features[0].double().numpy()
    assert 7 not in found
    assert all(cosine(x[i], x[j]) <= 0.5 for i in found for j in found if i != j)


def test_a_cosine_equal_to_the_threshold_is_not_above_it() -> None:
    scores, _ = noise(1, 8)
    stop = {"on_exhaustion": "stop"}
    assert kept(GreedySuppression(threshold=0.0, **stop), of(8, scores, torch.eye(8))) == [list(range(8))]
    assert len(kept(GreedySuppression(threshold=-0.1, **stop), of(8, scores, torch.eye(8)))[0]) == 1


@pytest.mark.parametrize("count", [5, 90])
def test_exact_copies_are_not_above_a_threshold_of_one(count: int) -> None:
    """Rounding puts about half of the cosines of equal vectors above 1."""
    scores, _ = noise(20, 90)
    _, features = noise(20, 1, 333)
    stop = GreedySuppression(threshold=1.0, on_exhaustion="stop")
    found = kept(stop, of(count, scores, features.expand(20, 90, 333)))
    assert [len(row) for row in found] == [count] * 20


def test_zero_vectors_are_copies_of_each_other() -> None:
    scores, features = noise(1, 6, 8)
    features[0, :4] = 0
    stop = GreedySuppression(threshold=0.9, on_exhaustion="stop")
    (found,) = kept(stop, of(6, scores, features))
    assert len(set(found) & {0, 1, 2, 3}) == 1


def test_only_stop_may_keep_fewer() -> None:
    assert GreedySuppression().count_is_exact
    assert GreedySuppression(on_exhaustion="relax").count_is_exact
    assert not GreedySuppression(on_exhaustion="stop").count_is_exact


def test_relax_step_without_relax_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"relax_step=0\.1 has no effect.*'fill'"):
        GreedySuppression(relax_step=0.1)
    assert GreedySuppression(relax_step=RELAX_STEP) == GreedySuppression()


@pytest.mark.parametrize(
    "bad", [{"threshold": 1.5}, {"on_exhaustion": "give up"}, {"on_exhaustion": "relax", "relax_step": 0.0}, {"tau": 1}]
)
def test_bad_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GreedySuppression(**bad)
