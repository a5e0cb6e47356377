"""The public strategies draw what is valid, and their edge cases really occur and shrink."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import find as _find
from hypothesis import strategies as st

import vtprune
from vtprune.core.budget import UNITS, Budget
from vtprune.core.component import Candidates
from vtprune.core.errors import UnknownNameError
from vtprune.core.layout import SampleLayout
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe, Stage
from vtprune.core.site import Site
from vtprune.testing import strategies
from vtprune.testing.models import IMAGE, Tiny, tiny_llava
from vtprune.testing.strategies import (
    buckets,
    budgets,
    candidates,
    components,
    features,
    grids,
    layouts,
    needs,
    places,
    recipes,
    requests,
    scores,
    signals,
    sites,
    stages,
    tiny_inputs,
    tiny_models,
)

QUIET = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
SEARCH = settings(max_examples=2000, deadline=None, derandomize=True, database=None)
DEPTH = 4


def find(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool], shrunk: bool = True) -> Any:
    """The simplest example that meets a condition; NoSuchExample if there is none."""
    phases = [Phase.generate, Phase.shrink] if shrunk else [Phase.generate]
    return _find(strategy, condition, settings=settings(SEARCH, phases=phases))


def test_every_name_is_there_and_told_of() -> None:
    told = re.findall(r"^\| `(\w+)` \|", strategies.__doc__ or "", re.MULTILINE)
    assert sorted(told) == strategies.__all__
    assert all(callable(getattr(strategies, name)) for name in strategies.__all__)


# -- tensors -----------------------------------------------------------------------------------------------------------


@QUIET
@given(scores(2, 5), scores(1, 3, infinite=False), scores(1, 4, negative=True))
def test_scores_are_scores(one: torch.Tensor, finite: torch.Tensor, negative: torch.Tensor) -> None:
    assert one.shape == (2, 5)
    assert one.dtype == torch.float32
    assert not one.isnan().any()
    assert (one >= 0).logical_or(one.isinf()).all()
    assert finite.isfinite().all()
    assert negative.shape == (1, 4)


@pytest.mark.parametrize(
    "edge",
    [
        lambda row: bool((row == torch.inf).any()),
        lambda row: bool((row == -torch.inf).any()),
        lambda row: row.unique().numel() == 1,
        lambda row: bool(((row > 0) & (row < torch.finfo(torch.float32).tiny)).any()),
        lambda row: row.unique().numel() == row.numel(),
    ],
    ids=["always", "never", "ties", "denormal", "distinct"],
)
def test_scores_have_edges(edge: Callable[[Any], bool]) -> None:
    assert edge(find(scores(1, 4), edge))


def test_scores_shrink() -> None:
    assert find(scores(1, 3), lambda row: bool((row >= 0.5).any())).tolist().count([0.0, 0.0, 0.0]) == 0
    assert sorted(find(scores(1, 3), lambda row: bool((row >= 0.5).any()))[0].tolist())[:2] == [0.0, 0.0]


@QUIET
@given(features(2, 4, most=3))
def test_features_are_features(found: torch.Tensor) -> None:
    assert found.shape[:2] == (2, 4)
    assert 1 <= found.shape[2] <= 3
    assert found.isfinite().all()


@pytest.mark.parametrize(
    "edge",
    [
        lambda found: found.dtype == torch.bfloat16,
        lambda found: bool((found == 0).all()),
        lambda found: len(found[0].unique(dim=0)) < len(found[0]) and bool((found != 0).any()),
        lambda found: float(found.abs().max()) > 1e4,
    ],
    ids=["bfloat16", "zeros", "duplicates", "huge"],
)
def test_features_have_edges(edge: Callable[[Any], bool]) -> None:
    assert edge(find(features(1, 6), edge, shrunk=False))


@QUIET
@given(candidates())
def test_candidates_can_be_met(found: Candidates) -> None:
    least = found.protected.sum(-1)
    assert (found.counts >= least).all()
    assert (found.counts <= found.vision).all()
    assert found.protected.shape == (len(found.counts), found.vision)


def test_candidates_have_edges() -> None:
    assert find(candidates(), lambda found: bool((found.counts == 0).any())).vision == 1
    everything = find(candidates(), lambda found: bool((found.counts == found.vision).all()) and found.vision > 3)
    assert everything.vision == 4
    assert find(candidates(), lambda found: bool(found.protected.any()) and len(found.counts) > 1).vision == 1


@QUIET
@given(layouts(min_images=1), st.data())
def test_layouts_cover_their_tokens(layout: SampleLayout, data: st.DataObject) -> None:
    assert [segment.start for segment in layout.segments] == [0, *(s.stop for s in layout.segments[:-1])]
    assert layout.segments[-1].stop == layout.vision == len(layout.positions)
    assert layout.positions.diff().gt(0).all()
    assert len(layout.coordinates()) == layout.vision
    t, h, w = data.draw(grids(most=9))
    assert 1 <= t * h * w <= 9


@pytest.mark.parametrize(
    "edge",
    [
        lambda layout: not layout.segments,
        lambda layout: any(len(segment) == 1 for segment in layout.segments),
        lambda layout: any(segment.kind == "video" for segment in layout.segments),
        lambda layout: any(segment.row_ends for segment in layout.segments),
        lambda layout: len({segment.image for segment in layout.segments}) < len(layout.segments),
        lambda layout: len({len(segment) for segment in layout.segments}) > 2,
    ],
    ids=["no image", "one token", "video", "separators", "crops", "unequal"],
)
def test_layouts_have_edges(edge: Callable[[SampleLayout], bool]) -> None:
    assert edge(find(layouts(), edge, shrunk=False))


def test_layouts_may_have_no_grid() -> None:
    assert find(layouts(grid=False), lambda layout: any(segment.grid is None for segment in layout.segments))


@QUIET
@given(buckets(), st.data())
def test_signals_hold_what_is_needed(bucket: Any, data: st.DataObject) -> None:
    wanted = frozenset(data.draw(st.sets(needs(["features", "keys", "attention", "sample_seed"]), max_size=3)))
    offer = data.draw(signals(wanted, bucket))
    assert all(len(offer.get(need)) == len(bucket.layouts) for need in wanted)
    assert torch.equal(offer.alive, bucket.alive)
    assert all(layout.vision == bucket.layouts[0].vision for layout in bucket.layouts)


@QUIET
@given(budgets())
def test_budgets_are_budgets(budget: Budget) -> None:
    assert Budget.model_validate(budget.model_dump()) == budget


@pytest.mark.parametrize("unit", UNITS)
def test_budgets_have_edges(unit: str) -> None:
    assert find(budgets([unit]), lambda budget: budget.unit == unit).value == 0
    assert find(budgets([unit]), lambda budget: budget.value == 1, shrunk=False)


@QUIET
@given(requests())
def test_requests_can_be_met(asked_and_bucket: Any) -> None:
    asked, bucket = asked_and_bucket
    assert asked.target(bucket) <= sum(bucket.original)


def test_places_are_of_every_kind() -> None:
    assert find(places(), lambda place: place.is_input)
    assert find(places(), lambda place: place.kv_heads is not None and len(place.layers) > 1)
    assert find(places(), lambda place: place.kv_heads is None and not place.is_input)


# -- recipes -----------------------------------------------------------------------------------------------------------


@QUIET
@given(sites(depth=DEPTH))
def test_sites_are_in_range(site: Site) -> None:
    layers = site.layers(DEPTH)
    assert layers == tuple(sorted(set(layers)))
    assert all(0 <= layer < DEPTH for layer in layers)
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    "edge",
    [
        lambda site: site.kind == "tower",
        lambda site: site.kind == "vision",
        lambda site: site.kind == "projector",
        lambda site: site.index == ":",
        lambda site: site.index.count(":") == 2,
        lambda site: site.index.startswith("-"),
        lambda site: "," in site.index,
        lambda site: site.kind == "kv" and len(site.layers(DEPTH)) == DEPTH,
    ],
    ids=["tower", "vision", "projector", "all", "step", "negative", "list", "whole cache"],
)
def test_sites_have_edges(edge: Callable[[Site], bool]) -> None:
    assert edge(find(sites(depth=DEPTH), edge))


def test_sites_shrink() -> None:
    assert str(find(sites(kinds=("llm",), depth=DEPTH), lambda site: True)) == "llm.layers[0]"


def of_type(cls: type, found: object) -> bool:
    return type(found) is cls


@pytest.mark.parametrize("kind", ["scorer", "allocator", "selector", "reducer"])
def test_components_are_all_drawn(kind: str) -> None:
    names = {entry.name for entry in vtprune.components(kind) if entry.origin == "vtprune"}
    for name in names:
        cls = registry().load(kind, name)
        assert isinstance(find(components(kind), partial(of_type, cls), shrunk=False), cls)
    only = sorted(names)[0]
    assert {type(example) for example in [find(components(kind, [only]), lambda found: True)]} == {
        registry().load(kind, only)
    }
    with pytest.raises(UnknownNameError):
        components(kind, ["nothing"])


@pytest.mark.parametrize(
    "edge",
    [
        lambda stage: stage.scorer is None,
        lambda stage: stage.scorer is not None and stage.scorer.granularity == "head",
        lambda stage: stage.budget is None,
        lambda stage: stage.budget is not None and stage.budget.value == 0,
        lambda stage: stage.budget is not None and stage.budget.unit == "kv_bytes_ratio",
        lambda stage: stage.positions == "reindex",
        lambda stage: stage.scope == "image",
        lambda stage: -1 in stage.protect,
        lambda stage: type(stage.reducer).__name__ == "Merge",
    ],
    ids=["no scorer", "per head", "no budget", "nothing", "bytes", "reindex", "image", "protected", "merge"],
)
def test_stages_have_edges(edge: Callable[[Stage], bool]) -> None:
    assert edge(find(stages(), edge, shrunk=False))


@QUIET
@given(recipes())
def test_recipes_survive_the_way_to_yaml_and_back(recipe: Recipe) -> None:
    again = Recipe.parse(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    assert again.hash == recipe.hash


def test_recipes_shrink() -> None:
    found = find(recipes(), lambda recipe: any(stage.site.kind == "kv" for stage in recipe.stages))
    assert found.description is None
    # Whether stages before it are left over depends on where the search began.
    assert [str(stage.site) for stage in found.stages if stage.site.kind == "kv"] == ["llm.layers[0].kv"]
    assert len(find(recipes(), lambda recipe: len(recipe.stages) > 1).stages) == 2


@settings(QUIET, max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_recipes_of_a_model_can_be_bound_to_it(data: st.DataObject) -> None:
    model = tiny_llava().model
    recipe = data.draw(recipes(model=model, most=2))
    run = vtprune.prune(model, recipe)
    assert run.recipe == recipe


# -- models ------------------------------------------------------------------------------------------------------------


@settings(QUIET, max_examples=12)
@given(st.data())
def test_tiny_models_run_on_their_inputs(data: st.DataObject) -> None:
    tiny: Tiny = data.draw(tiny_models())
    inputs = data.draw(tiny_inputs(tiny))
    with torch.no_grad():
        logits = tiny.model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    assert bool((inputs["input_ids"] == IMAGE).any())


def begins(text: str, tiny: Tiny) -> bool:
    return tiny.name.startswith(text)


def test_every_tiny_model_is_drawn() -> None:
    for family in ("llava", "qwen2_5_vl", "llava_next", "internvl"):
        assert find(tiny_models(), partial(begins, f"{family}-"), shrunk=False)
    eager = find(tiny_models(["llava"], attentions=("sdpa", "eager")), lambda tiny: "eager" in tiny.name, shrunk=False)
    assert eager.model.config.text_config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="llava"):
        tiny_models(["llva"])


def images_of(inputs: dict[str, torch.Tensor]) -> list[int]:
    return ((inputs["input_ids"] == IMAGE).sum(1) // 16).tolist()


@pytest.mark.parametrize(
    "edge",
    [
        lambda inputs: 0 in images_of(inputs),
        lambda inputs: 2 in images_of(inputs),
        lambda inputs: bool((inputs["attention_mask"][:, 0] == 0).any()),
        lambda inputs: bool((inputs["attention_mask"][:, -1] == 0).any()),
        lambda inputs: len(set(inputs["attention_mask"].sum(1).tolist())) == 3,
    ],
    ids=["no image", "two images", "padded left", "padded right", "three lengths"],
)
def test_inputs_have_edges(edge: Callable[[Any], bool]) -> None:
    assert edge(find(tiny_inputs(tiny_llava()), edge, shrunk=False))


def test_inputs_shrink() -> None:
    assert images_of(find(tiny_inputs(tiny_llava()), lambda inputs: True)) == [1]
    assert images_of(find(tiny_inputs(tiny_llava(), vision=False), lambda inputs: True)) == [0]
