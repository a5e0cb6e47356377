from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from vtprune_borrowed.shared_budget import SharedBudget

from vtprune.plugin import AllocationRequest, ComponentError, Need, SampleLayout, Segment, Signals


def allocate(
    allocator: SharedBudget,
    attention: torch.Tensor,
    target: Fraction,
    sizes: tuple[int, ...] | None = None,
    kv_heads: int | None = None,
) -> torch.Tensor:
    """attention: ``[batch, head, vision]``."""
    batch, _, vision = attention.shape
    sizes = sizes or (vision,)
    bounds = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    segments = tuple(
        Segment(index, start, stop, (1, 1, stop - start)) for index, (start, stop) in enumerate(pairwise(bounds))
    )
    signals = Signals.of(
        {Need("attention", allocator.query): attention},
        (SampleLayout(torch.arange(vision), segments),) * batch,
        layer=3,
        kv_heads=kv_heads,
    )
    request = AllocationRequest(target, sizes, sizes, 3, (3,), (1,), 4, kv_heads)
    return allocator.allocate(request, signals).counts


def softmax(*shape: int, seed: int = 0, sharpness: float = 2.0) -> torch.Tensor:
    return (sharpness * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def test_a_head_that_looks_at_one_token_leaves_the_rest_to_the_other() -> None:
    attention = torch.tensor([[[0.9, 0.01, 0.01, 0.01], [0.2, 0.3, 0.2, 0.3]]])
    assert allocate(SharedBudget(floor=0.0), attention, Fraction(2), kv_heads=2).tolist() == [[[1], [3]]]
    assert allocate(SharedBudget(floor=1.0), attention, Fraction(2), kv_heads=2).tolist() == [[[2], [2]]]


def test_images_compete_where_whole_tokens_go() -> None:
    attention = torch.tensor([[[0.4, 0.3, 0.2, 0.01, 0.02, 0.0]]])
    assert allocate(SharedBudget(floor=0.0), attention, Fraction(3), (3, 3)).tolist() == [[3, 0]]
    assert allocate(SharedBudget(floor=0.7), attention, Fraction(3), (3, 3)).tolist() == [[2, 1]]


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("target", [Fraction(0), Fraction(7, 3), Fraction(5), Fraction(49, 4), Fraction(20)])
def test_the_budget_is_spent_and_the_floor_holds(floor: float, target: Fraction) -> None:
    sizes, heads = (7, 1, 12), 4
    counts = allocate(SharedBudget(floor=floor), softmax(3, 8, 20), target, sizes, kv_heads=heads)
    total = math.floor(target * heads)
    assert counts.shape == (3, heads, 3)
    assert counts.sum((1, 2)).tolist() == [total] * 3
    for segment, size in enumerate(sizes):
        least = math.floor(Fraction(str(floor)) * total * size / (heads * 20))
        assert int(counts[..., segment].min()) >= least
        assert int(counts[..., segment].max()) <= size


@pytest.mark.parametrize("seed", range(5))
def test_without_a_floor_the_strongest_of_the_layer_are_counted(seed: int) -> None:
    attention = softmax(2, 6, 15, seed=seed)
    counts = allocate(SharedBudget(floor=0.0), attention, Fraction(4), (5, 10), kv_heads=3)
    for sample in range(2):
        grouped = [
            [(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in attention[sample].view(3, 2, 15).tolist()
        ]
        strongest = sorted(
            ((-value, head, token) for head, row in enumerate(grouped) for token, value in enumerate(row))
        )[:12]
        for head in range(3):
            won = [token for _, which, token in strongest if which == head]
            assert counts[sample, head].tolist() == [sum(t < 5 for t in won), sum(t >= 5 for t in won)]


def test_batch_mates_are_strangers() -> None:
    attention = softmax(3, 4, 12)
    together = allocate(SharedBudget(), attention, Fraction(5), kv_heads=2)
    for sample in range(3):
        assert torch.equal(allocate(SharedBudget(), attention[[sample]], Fraction(5), kv_heads=2)[0], together[sample])


def test_query_heads_that_do_not_divide() -> None:
    with pytest.raises(ComponentError, match="3 query heads and 2 KV heads"):
        allocate(SharedBudget(), softmax(1, 3, 8), Fraction(2), kv_heads=2)
