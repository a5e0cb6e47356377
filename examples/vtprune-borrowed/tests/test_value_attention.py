from __future__ import annotations

import pytest
import torch
from vtprune_borrowed.value_attention import ValueAttention

from vtprune.plugin import ComponentError, Need, SampleLayout, Segment, Signals


def signals(attention: torch.Tensor, values: torch.Tensor, query: str = "last") -> Signals:
    """Of one sample: attention ``[head, vision]``, values ``[kv_head, vision, dim]``."""
    vision = attention.shape[-1]
    layout = SampleLayout(torch.arange(1, 1 + vision), (Segment(0, 0, vision, (1, 1, vision)),))
    given = {Need("attention", query): attention[None], Need("values"): values[None]}
    return Signals.of(given, (layout,), kv_heads=len(values))


# Four query heads, two KV heads, three tokens.
ROWS = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.5, 0.0, 0.1], [0.1, 0.4, 0.1]])
VALUES = torch.tensor([[[3.0, -4.0], [1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [-3.0, 4.0], [1.0, 1.0]]])


def test_by_hand() -> None:
    heads = ValueAttention(per_head=True).score(signals(ROWS, VALUES))
    assert torch.allclose(heads, torch.tensor([[[0.2 * 7, 0.2 * 1, 0.0], [0.3 * 2, 0.2 * 7, 0.1 * 2]]]))
    assert torch.allclose(ValueAttention().score(signals(ROWS, VALUES)), heads.mean(1))


def test_the_order_of_the_norm() -> None:
    heads = ValueAttention(p=2.0, per_head=True).score(signals(ROWS, VALUES))
    assert torch.allclose(heads, torch.tensor([[[0.2 * 5, 0.2 * 1, 0.0], [0.3 * 2, 0.2 * 5, 0.1 * 2**0.5]]]))


def test_attention_without_a_value_is_worth_nothing() -> None:
    rows = torch.tensor([[0.9, 0.05]])
    scores = ValueAttention().score(signals(rows, torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])))
    assert scores.argmax() == 1
    assert rows.argmax() == 0


@pytest.mark.parametrize("p", [1.0, 2.0, 40.0])
def test_values_as_large_as_half_precision_reaches(p: float) -> None:
    values = torch.full((1, 2, 64), 65504.0).half()
    scores = ValueAttention(p=p).score(signals(torch.tensor([[0.5, 0.25]]), values))
    expected = torch.tensor([[0.5, 0.25]]) * 65504.0 * 64 ** (1 / p)
    assert torch.allclose(scores, expected)


def test_query_heads_that_do_not_divide() -> None:
    with pytest.raises(ComponentError, match="3 query heads and 2 KV heads"):
        ValueAttention().score(signals(ROWS[:3], VALUES))
