"""Similarity and KeyNorm against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from tests.scorers.support import DIM, KV_HEADS, layout, made_up, signals_of, tensors_for
from vtprune.core.signals import Need
from vtprune.core.spec import build
from vtprune.scorers.key_norm import KeyNorm
from vtprune.scorers.similarity import Similarity

LAYOUTS = (layout((1, 2, 4)),) * 2
FEATURES, KEYS = Need("features"), Need("keys")


def cosine(x: list[float], y: list[float]) -> float:
    length = math.hypot(*x) * math.hypot(*y)
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / length if length else 0.0


@pytest.mark.parametrize("text", ["last", "text_after_vision", "text"])
def test_similarity_to_text(text: str) -> None:
    scorer = Similarity(text=text)
    assert scorer.needs() == {FEATURES, Need("text", text)}
    tensors = tensors_for(scorer, LAYOUTS)
    features, reference = tensors[FEATURES].tolist(), tensors[Need("text", text)].tolist()
    expected = [[cosine(token, reference[b]) for token in features[b]] for b in range(2)]
    torch.testing.assert_close(
        scorer.score(signals_of(tensors, LAYOUTS)).double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-6
    )


def test_similarity_to_the_mean_token() -> None:
    scorer = Similarity(to="mean")
    assert scorer.needs() == {FEATURES}
    tensors = tensors_for(scorer, LAYOUTS)
    expected = []
    for tokens in tensors[FEATURES].tolist():
        mean = [math.fsum(token[d] for token in tokens) / len(tokens) for d in range(DIM)]
        expected.append([cosine(token, mean) for token in tokens])
    torch.testing.assert_close(
        scorer.score(signals_of(tensors, LAYOUTS)).double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("scorer", [Similarity(), Similarity(to="mean")], ids=["text", "mean"])
def test_zero_vectors_score_zero(scorer: Similarity) -> None:
    tensors = tensors_for(scorer, LAYOUTS)
    tensors[FEATURES][0, 3] = 0
    tensors[FEATURES][1] = torch.tensor([1.0, -1.0]).repeat(4)[:, None]  # the mean of sample 1 is zero
    if scorer.to == "text":
        tensors[Need("text", "last")][1] = 0
    scores = scorer.score(signals_of(tensors, LAYOUTS))
    assert scores[0, 3] == 0
    assert scores[0].count_nonzero() == 7
    assert torch.equal(scores[1], torch.zeros(8))


def test_similarity_refuses_a_text_that_would_do_nothing() -> None:
    with pytest.raises(ValueError, match="acts only with to: text"):
        build("scorer", {"name": "similarity", "to": "mean", "text": "text"})


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 7.0])
@pytest.mark.parametrize("keep", ["low", "high"])
@pytest.mark.parametrize("per_head", [False, True])
def test_key_norm(p: float, keep: str, per_head: bool) -> None:
    scorer = KeyNorm(p=p, keep=keep, per_head=per_head)
    assert scorer.granularity == ("head" if per_head else "token")
    assert scorer.needs() == {KEYS}
    tensors = tensors_for(scorer, LAYOUTS)
    sign = 1 if keep == "high" else -1
    norms = [
        [[sign * math.fsum(abs(x) ** p for x in key) ** (1 / p) for key in head] for head in sample]
        for sample in tensors[KEYS].tolist()
    ]
    if not per_head:
        norms = [[math.fsum(head[i] for head in sample) / KV_HEADS for i in range(8)] for sample in norms]
    scores = scorer.score(signals_of(tensors, LAYOUTS))
    torch.testing.assert_close(scores.double(), torch.tensor(norms, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_low_norms_are_kept_by_default() -> None:
    signals = made_up(KeyNorm())
    lowest = signals.keys().norm(dim=-1).mean(dim=1).argmin(dim=-1)
    assert torch.equal(KeyNorm().score(signals).argmax(dim=-1), lowest)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_key_norm_neither_overflows_nor_underflows(size: float) -> None:
    keys = torch.full((1, 1, 3, DIM), size)
    keys[0, 0, 1] = 0
    norms = KeyNorm(p=50.0, keep="high").score(signals_of({KEYS: keys}, (layout((1, 1, 3)),)))
    expected = size * DIM ** (1 / 50)
    torch.testing.assert_close(norms, torch.tensor([[expected, 0.0, expected]]), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("p", [0.5, float("inf"), float("nan")])
def test_key_norm_refuses_what_is_no_norm(p: float) -> None:
    with pytest.raises(ValueError, match=r"key_norm'\.p: Input should be"):
        build("scorer", {"name": "key_norm", "p": p})
