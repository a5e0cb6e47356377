"""Attention and ClsAttention against plain loops in float64."""

from __future__ import annotations

import pytest
import torch

from tests.scorers.support import HEADS, KV_HEADS, layout, made_up, signals_of, tensors_for
from vtprune.core.errors import ComponentError
from vtprune.core.signals import Need, Signals
from vtprune.core.spec import build
from vtprune.scorers.attention import Attention
from vtprune.scorers.cls_attention import ClsAttention

REDUCE = {"mean": lambda values: sum(values) / len(values), "max": max, "sum": sum}
LAYOUTS = (layout((1, 2, 4)),) * 2


def loops(rows: torch.Tensor, groups: list[list[int]], how: str) -> list[list[list[float]]]:
    """[batch][group][vision]: the heads of each group reduced, one number at a time."""
    data = rows.double().tolist()
    return [
        [[REDUCE[how]([sample[head][i] for head in group]) for i in range(len(sample[0]))] for group in groups]
        for sample in data
    ]


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("heads", [None, (1, 4), (5, 0, 2)])
@pytest.mark.parametrize("query", ["last", "text_after_vision", "text", "received"])
def test_attention_per_token(how: str, heads: tuple[int, ...] | None, query: str) -> None:
    scorer = Attention(query=query, layer=2, head_reduction=how, heads=heads)
    assert scorer.granularity == "token"
    assert scorer.needs() == {Need("attention", query, 2)}
    tensors = tensors_for(scorer, LAYOUTS)
    expected = loops(tensors[Need("attention", query, 2)], [list(heads or range(HEADS))], how)
    scores = scorer.score(signals_of(tensors, LAYOUTS))
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64)[:, 0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_attention_per_head_joins_the_query_heads_of_a_kv_head(how: str) -> None:
    scorer = Attention(head_reduction="none", gqa_reduction=how)
    assert scorer.granularity == "head"
    tensors = tensors_for(scorer, LAYOUTS)
    size = HEADS // KV_HEADS
    groups = [list(range(kv * size, (kv + 1) * size)) for kv in range(KV_HEADS)]
    expected = torch.tensor(loops(tensors[Need("attention", "last")], groups, how), dtype=torch.float64)
    scores = scorer.score(signals_of(tensors, LAYOUTS))
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-8)


def test_a_missing_head_is_named_with_the_range() -> None:
    scorer = Attention(heads=(0, HEADS, HEADS + 2))
    with pytest.raises(ComponentError, match=rf"query heads \[{HEADS}, {HEADS + 2}\].*heads 0 to {HEADS - 1}"):
        scorer.score(made_up(scorer))


@pytest.mark.parametrize("kv_heads", [None, 4])
def test_query_heads_must_divide_into_kv_heads(kv_heads: int | None) -> None:
    scorer = Attention(head_reduction="none")
    signals = Signals.of(tensors_for(scorer, LAYOUTS), LAYOUTS, kv_heads=kv_heads)
    with pytest.raises(ComponentError, match=f"{HEADS} query heads and {kv_heads or 'an unknown'}"):
        scorer.score(signals)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gqa_reduction": "max"}, "acts only with head_reduction: none"),
        ({"gqa_reduction": "max", "head_reduction": "max"}, "but head_reduction is max"),
        ({"heads": [0], "head_reduction": "none"}, "heads chooses query heads to reduce"),
        ({"heads": [0], "head_reduction": "max"}, "over a single head has no effect"),
        ({"heads": []}, "at least 1 item"),
        ({"heads": [-1]}, "greater than or equal to 0"),
        ({"heads": [1, 2, 1]}, r"distinct, got \[1, 2, 1\]"),
        ({"layer": -1}, "greater than or equal to 0"),
        ({"query": "first"}, "'last', 'text_after_vision', 'text' or 'received'"),
    ],
)
def test_attention_refuses(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("scorer", {"name": "attention", **parameters})


def test_attention_names_all_faults_at_once() -> None:
    with pytest.raises(ValueError, match="gqa_reduction: max") as caught:
        build("scorer", {"name": "attention", "gqa_reduction": "max", "heads": [1, 1]})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("query", ["cls", "received"])
@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("over", ["sum", "mean", "max"])
def test_cls_attention(query: str, heads: str, over: str) -> None:
    layers = (-4, -2, 1)
    scorer = ClsAttention(layers=layers, head_reduction=heads, layer_reduction=over, query=query)
    assert scorer.granularity == "token"
    assert scorer.needs() == {Need("vision_attention", query, layer) for layer in layers}
    tensors = tensors_for(scorer, LAYOUTS)
    each = [loops(tensors[Need("vision_attention", query, layer)], [list(range(HEADS))], heads) for layer in layers]
    expected = [[REDUCE[over]([layer[b][0][i] for layer in each]) for i in range(8)] for b in range(2)]
    scores = scorer.score(signals_of(tensors, LAYOUTS))
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": []}, "at least 1 item"),
        ({"layers": [-2, -2]}, "distinct"),
        ({"layer_reduction": "mean"}, "no effect on the single layer -2"),
        ({"head_reduction": "none"}, "'mean' or 'max'"),
    ],
)
def test_cls_attention_refuses(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("scorer", {"name": "cls_attention", **parameters})
