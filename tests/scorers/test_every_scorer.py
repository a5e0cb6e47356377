"""What every scorer owes: the conformance checks in every setting, and the same on inputs of hypothesis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scorers.support import KV_HEADS, made_up
from vtprune.builtins import SCORERS
from vtprune.core.component import Scorer
from vtprune.core.plugins import registry
from vtprune.core.spec import build
from vtprune.testing import Check, parametrize_with_checks
from vtprune.testing.checks.scorer_values import far
from vtprune.testing.inputs.layouts import one_image
from vtprune.testing.inputs.signals import TOKEN_AXIS, signals_of, tensors_for
from vtprune.testing.run import described
from vtprune.testing.strategies import signals

EXAMPLES = [example for name in SCORERS for example in registry().load("scorer", name).examples()]
ATTENTION = {"name": "attention"}
PER_HEAD = {"name": "attention", "head_reduction": "none"}
MORE = [
    {"name": "attention", "query": "received", "layer": 1, "heads": [3]},
    {"name": "cls_attention", "layers": [-4, -3, -2], "layer_reduction": "mean"},
    {"name": "key_norm", "p": 50.0, "per_head": True},
    {"name": "weighted_sum", "scorers": [ATTENTION, "oracle"], "weights": [0.3, -2.0]},
    {"name": "product", "scorers": [PER_HEAD, "uniform_grid", {"name": "negate", "scorer": "random"}]},
    {"name": "normalise", "scorer": {"name": "key_norm", "per_head": True}, "method": "min_max"},
    {"name": "negate", "scorer": PER_HEAD},
]
"""Settings beside the examples."""


def make(spec: dict) -> Scorer:
    scorer = build("scorer", spec)
    assert isinstance(scorer, Scorer)
    return scorer


SCORERS_TRIED = [*EXAMPLES, *map(make, MORE)]
every = pytest.mark.parametrize("scorer", SCORERS_TRIED, ids=described)
few = settings(max_examples=12, deadline=None)


@parametrize_with_checks(*SCORERS_TRIED, in_model=False)
def test_conformance(component: Scorer, check: Check) -> None:
    check(component)


@every
@pytest.mark.parametrize("batch", [1, 3])
def test_no_vision_tokens_at_all(scorer: Scorer, batch: int) -> None:
    """The engine asks for no scores then; scorers of one's own that wrap these may."""
    scores = scorer.score(made_up(scorer, (1, 0, 0), batch))
    assert scores.shape == ((batch, KV_HEADS, 0) if scorer.granularity == "head" else (batch, 0))


@every
@few
@given(data=st.data())
def test_any_signals(scorer: Scorer, data: st.DataObject) -> None:
    """Shape, dtype, no NaN, purity and the independence of samples, on whatever hypothesis comes up with."""
    drawn = data.draw(signals(scorer))
    before = {need: tensor.clone() for need, tensor in drawn.tensors.items()}
    scores = scorer.score(drawn)
    assert scores.dtype == torch.float32
    shape = (drawn.batch, KV_HEADS, drawn.vision) if scorer.granularity == "head" else (drawn.batch, drawn.vision)
    assert scores.shape == shape
    assert not scores.isnan().any()
    assert drawn.read == scorer.needs()
    assert all(torch.equal(drawn.tensors[need], copy) for need, copy in before.items())
    sample = data.draw(st.integers(0, drawn.batch - 1))
    alone = {need: tensor[sample : sample + 1] for need, tensor in drawn.tensors.items()}
    assert not far(scorer.score(signals_of(alone, drawn.bucket.take([sample])))[0], scores[sample])


@pytest.mark.parametrize("scorer", [one for one in SCORERS_TRIED if one.permutation_equivariant], ids=described)
@few
@given(data=st.data())
def test_permuting_tokens_permutes_scores(scorer: Scorer, data: st.DataObject) -> None:
    vision = data.draw(st.integers(1, 12))
    order = torch.tensor(data.draw(st.permutations(range(vision))))
    bucket = one_image(2, (1, 1, vision))
    tensors = tensors_for(scorer, bucket, seed=data.draw(st.integers(0, 2**31)))
    permuted = {
        need: tensor.index_select(axis, order) if (axis := TOKEN_AXIS.get(need.kind)) else tensor
        for need, tensor in tensors.items()
    }
    expected = scorer.score(signals_of(tensors, bucket))[..., order]
    torch.testing.assert_close(scorer.score(signals_of(permuted, bucket)), expected, rtol=1e-5, atol=1e-5)


def test_who_looks_at_places_says_so() -> None:
    by_place = [one for one in SCORERS_TRIED if any(name in repr(one) for name in ("Random", "UniformGrid", "Oracle"))]
    assert [one for one in SCORERS_TRIED if not one.permutation_equivariant] == by_place
