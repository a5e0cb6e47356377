"""One selector for a share of the count, another one for the rest."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tests.selectors.reference import by_score, max_min
from tests.selectors.support import kept, make, noise, of
from vtprune.core.spec import build, dump
from vtprune.selectors.max_min import MaxMin
from vtprune.selectors.top_k import TopK
from vtprune.selectors.union import Union


@pytest.mark.parametrize(
    ("share", "count", "first"), [(0.5, 5, 3), (0.5, 4, 2), (0.1, 4, 0), (0.1, 5, 1), (0.3, 10, 3)]
)
def test_the_first_rounds_halves_upwards_and_the_second_sees_it(share: float, count: int, first: int) -> None:
    scores, features = noise(1, 20)
    seeds = by_score(scores[0].tolist(), first)
    expected = sorted(max_min(features[0].double().numpy(), count, "cosine", "farthest_neighbour", seeds))
    assert kept(Union(first="top_k", second="max_min", share=share), of(count, scores, features)) == [expected]


def test_the_ends_of_share_are_the_parts_alone() -> None:
    candidates = of([6, 3], *noise(2, 20))
    ends = [Union(first="top_k", second="max_min", share=share) for share in (1.0, 0.0)]
    assert kept(ends[0], candidates) == kept(TopK(), candidates)
    assert kept(ends[1], candidates) == kept(MaxMin(), candidates)


def test_the_order_of_the_parts_matters() -> None:
    candidates = of(8, *noise(1, 20))
    parts = {"first": "top_k", "second": "max_min"}
    swapped = {"first": "max_min", "second": "top_k"}
    assert kept(Union(**parts, share=0.5), candidates) != kept(Union(**swapped, share=0.5), candidates)


def test_more_protected_tokens_than_the_first_share() -> None:
    scores, features = noise(1, 20)
    protected = torch.arange(20) < 4
    (found,) = kept(Union(first="top_k", second="max_min", share=0.2), of(5, scores, features, protected))
    assert len(found) == 5
    assert set(found) >= {0, 1, 2, 3}


def test_a_first_part_that_keeps_fewer_leaves_more_to_the_second() -> None:
    picky = {"name": "threshold", "value": 2.0, "minimum": 1}
    union = Union(first=picky, second="top_k", share=0.8)
    scores, _ = noise(2, 10)
    assert union.count_is_exact
    assert kept(union, of([5, 2], scores)) == kept(TopK(), of([5, 2], scores))


def test_properties_follow_from_the_parts() -> None:
    def union(first: object, second: object) -> Union:
        return Union(first=first, second=second, share=0.5)

    threshold, stop = {"name": "threshold", "value": 0.5}, {"name": "greedy_suppression", "on_exhaustion": "stop"}
    assert union("top_k", "max_min").uses_scores
    assert not union("max_min", {"name": "max_min", "start": "farthest_from_mean"}).uses_scores
    assert union("top_k", "top_k").feature_source is None
    assert union("top_k", {"name": "max_min", "feature": "keys"}).feature_source == "keys"
    assert union({"name": "max_min", "feature": "keys"}, "top_k").feature_source == "keys"
    assert not union("top_k", stop).count_is_exact
    assert union(stop, "top_k").count_is_exact
    assert union(threshold, "top_k").needs_count
    assert not union(threshold, {"name": "top_p", "p": 0.5}).needs_count


def test_two_feature_sources_are_refused_at_any_depth() -> None:
    nested = {"name": "union", "share": 0.5, "first": "top_k", "second": {"name": "max_min", "feature": "values"}}
    with pytest.raises(ValueError, match="first compares 'keys' and second 'values'"):
        Union(first={"name": "log_det", "feature": "keys"}, second=nested, share=0.5)


def test_a_nested_union_survives_its_specification() -> None:
    nested = make("union nested")
    assert build("selector", dump(nested)) == nested
    assert dump(nested)["first"]["second"]["name"] == "facility_location"


@pytest.mark.parametrize(
    "bad",
    [{"share": 1.5}, {"share": -0.1}, {"first": "topk"}, {"second": {"name": "max_min", "metric": "chess"}}],
)
def test_bad_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Union(**{"first": "top_k", "second": "max_min", "share": 0.5, **bad})
