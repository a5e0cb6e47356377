"""What holds for every scorer, in many settings: shapes, purity, batch independence, round trips, no dead knobs."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scorers.support import KV_HEADS, layout, made_up, signals_of, tensors_for
from vtprune.builtins import SCORERS
from vtprune.core.component import Scorer
from vtprune.core.spec import build, dump

ATTENTION = {"name": "attention"}
PER_HEAD = {"name": "attention", "head_reduction": "none"}
SIMILARITY = {"name": "similarity"}
SPECS = [
    ATTENTION,
    {"name": "attention", "query": "text", "layer": 1, "head_reduction": "max"},
    {"name": "attention", "heads": [4, 1]},
    PER_HEAD,
    {"name": "attention", "head_reduction": "none", "gqa_reduction": "max"},
    {"name": "cls_attention"},
    {"name": "cls_attention", "layers": [-4, -3, -2], "layer_reduction": "max", "head_reduction": "max"},
    {"name": "cls_attention", "query": "received"},
    SIMILARITY,
    {"name": "similarity", "to": "mean"},
    {"name": "similarity", "text": "text_after_vision"},
    {"name": "key_norm"},
    {"name": "key_norm", "p": 1.0, "keep": "high", "per_head": True},
    {"name": "random", "seed": 7},
    {"name": "uniform_grid"},
    {"name": "oracle", "seed": 3},
    {"name": "weighted_sum", "scorers": [ATTENTION, SIMILARITY], "weights": [0.3, -2.0]},
    {"name": "weighted_sum", "scorers": [PER_HEAD, SIMILARITY, "uniform_grid"], "weights": [1, 2, 3]},
    {"name": "product", "scorers": [SIMILARITY, {"name": "key_norm", "per_head": True}]},
    {"name": "normalise", "scorer": ATTENTION, "method": "min_max"},
    {"name": "normalise", "scorer": PER_HEAD, "method": "z_score"},
    {"name": "normalise", "scorer": PER_HEAD, "method": "rank"},
    {"name": "normalise", "scorer": SIMILARITY, "method": "softmax", "temperature": 0.1},
    {"name": "negate", "scorer": {"name": "normalise", "scorer": "random", "method": "rank"}},
]
every = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(map(str, spec.values()))[:70])


def make(spec: dict) -> Scorer:
    scorer = build("scorer", spec)
    assert isinstance(scorer, Scorer)
    return scorer


def test_every_built_in_is_covered() -> None:
    assert {spec["name"] for spec in SPECS} == set(SCORERS)


@every
@pytest.mark.parametrize("grid", [(1, 2, 4), (1, 1, 1), (1, 0, 0)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shape_and_dtype(spec: dict, grid: tuple[int, int, int], batch: int) -> None:
    scorer = make(spec)
    vision = grid[0] * grid[1] * grid[2]
    scores = scorer.score(made_up(scorer, grid, batch))
    assert scores.dtype == torch.float32
    assert scores.shape == ((batch, KV_HEADS, vision) if scorer.granularity == "head" else (batch, vision))
    assert not scores.isnan().any()


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(spec: dict, dtype: torch.dtype) -> None:
    scorer, layouts = make(spec), (layout((1, 2, 4)),) * 2
    tensors = tensors_for(scorer, layouts)
    half = {need: tensor.to(dtype) if tensor.is_floating_point() else tensor for need, tensor in tensors.items()}
    full = {need: tensor.float() if tensor.is_floating_point() else tensor for need, tensor in half.items()}
    scores = scorer.score(signals_of(half, layouts))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, scorer.score(signals_of(full, layouts)))


@every
def test_a_sample_does_not_depend_on_its_batch_mates(spec: dict) -> None:
    scorer, layouts = make(spec), (layout((1, 2, 4)), layout((1, 4, 2)), layout((1, 1, 3), (1, 1, 5)))
    tensors = tensors_for(scorer, layouts)
    together = scorer.score(signals_of(tensors, layouts))
    for row in range(3):
        alone = {need: tensor[row : row + 1] for need, tensor in tensors.items()}
        score = scorer.score(signals_of(alone, layouts[row : row + 1]))
        torch.testing.assert_close(score[0], together[row], rtol=1e-6, atol=1e-6)


@every
def test_inputs_and_global_generators_stay_as_they_were(spec: dict) -> None:
    scorer, layouts = make(spec), (layout((1, 2, 4)),) * 2
    tensors = tensors_for(scorer, layouts)
    copies = {need: tensor.clone() for need, tensor in tensors.items()}
    signals = signals_of(tensors, layouts)
    alive = signals.alive.clone()
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    first = scorer.score(signals)
    copy = first.clone()
    first.zero_()
    assert torch.equal(scorer.score(signals), copy), "a second call gives the same scores, from fresh memory"
    assert all(torch.equal(tensors[need], copies[need]) for need in copies)
    assert torch.equal(signals.alive, alive)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())


@every
def test_reads_what_it_declares_and_no_more(spec: dict) -> None:
    scorer = make(spec)
    signals = made_up(scorer)
    scorer.score(signals)
    assert set(signals._cache) == scorer.needs()


@every
def test_round_trip(spec: dict) -> None:
    scorer = make(spec)
    data = dump(scorer)
    assert data["name"] == spec["name"]
    assert build("scorer", data) == scorer
    assert dump(build("scorer", data)) == data


BY_INDEX = ("random", "uniform_grid", "oracle")
EQUIVARIANT = [spec for spec in SPECS if not any(name in str(spec) for name in BY_INDEX)]


@pytest.mark.parametrize("spec", EQUIVARIANT, ids=lambda spec: "-".join(map(str, spec.values()))[:70])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_permuting_tokens_permutes_scores(spec: dict, data: st.DataObject) -> None:
    vision = data.draw(st.integers(1, 12))
    order = torch.tensor(data.draw(st.permutations(range(vision))))
    scorer, layouts = make(spec), (layout((1, 1, vision)),) * 2
    tensors = tensors_for(scorer, layouts, seed=data.draw(st.integers(0, 2**31)))
    axis = {"features": 1, "keys": 2, "attention": 2, "vision_attention": 2}
    permuted = {
        need: tensor.index_select(axis[need.kind], order) if need.kind in axis else tensor
        for need, tensor in tensors.items()
    }
    expected = scorer.score(signals_of(tensors, layouts))[..., order]
    torch.testing.assert_close(scorer.score(signals_of(permuted, layouts)), expected, rtol=1e-5, atol=1e-5)


KNOBS = [
    (ATTENTION, "query", "received"),
    (ATTENTION, "layer", 2),
    (ATTENTION, "head_reduction", "max"),
    (ATTENTION, "head_reduction", "none"),
    (PER_HEAD, "gqa_reduction", "max"),
    (ATTENTION, "heads", [0, 2]),
    ({"name": "attention", "heads": [0, 2]}, "heads", [0, 3]),
    ({"name": "cls_attention"}, "layers", [-3]),
    ({"name": "cls_attention"}, "head_reduction", "max"),
    ({"name": "cls_attention"}, "query", "received"),
    ({"name": "cls_attention", "layers": [-3, -2]}, "layer_reduction", "mean"),
    ({"name": "cls_attention", "layers": [-3, -2]}, "layer_reduction", "max"),
    (SIMILARITY, "to", "mean"),
    (SIMILARITY, "text", "text"),
    ({"name": "key_norm"}, "p", 3.0),
    ({"name": "key_norm"}, "keep", "high"),
    ({"name": "key_norm"}, "per_head", True),
    ({"name": "random"}, "seed", 1),
    ({"name": "oracle"}, "seed", 1),
    ({"name": "weighted_sum", "scorers": [ATTENTION, SIMILARITY], "weights": [1, 1]}, "weights", [1, 2]),
    ({"name": "weighted_sum", "scorers": [ATTENTION, SIMILARITY], "weights": [1, 1]}, "scorers", [ATTENTION] * 2),
    ({"name": "product", "scorers": [ATTENTION, SIMILARITY]}, "scorers", [ATTENTION, ATTENTION]),
    ({"name": "normalise", "scorer": ATTENTION, "method": "rank"}, "method", "z_score"),
    ({"name": "normalise", "scorer": ATTENTION, "method": "rank"}, "scorer", SIMILARITY),
    ({"name": "normalise", "scorer": ATTENTION, "method": "softmax"}, "temperature", 0.5),
    ({"name": "negate", "scorer": ATTENTION}, "scorer", SIMILARITY),
]


@pytest.mark.parametrize(("spec", "field", "value"), KNOBS, ids=lambda part: str(part)[:40])
def test_no_dead_knobs(spec: dict, field: str, value: object) -> None:
    before, after = make(spec), make({**spec, field: value})
    layouts = (layout((1, 2, 4)),) * 2
    tensors = tensors_for(before, layouts) | tensors_for(after, layouts)
    first, second = (scorer.score(signals_of(tensors, layouts)) for scorer in (before, after))
    assert first.shape != second.shape or not torch.allclose(first, second)


def test_every_parameter_has_a_knob_test() -> None:
    tested = {(spec["name"], field) for spec, field, _ in KNOBS}
    fields = {(name, field) for name in SCORERS for field in type(make(covering(name))).model_fields}
    assert fields == tested


def covering(name: str) -> dict:
    return next(spec for spec in SPECS if spec["name"] == name)
