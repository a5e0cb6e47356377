from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from pydantic import ValidationError

from tests.allocators.requests import request, signals
from vtprune.allocators.reattention import Reattention
from vtprune.core.budget import Budget
from vtprune.core.signals import Need

TEN = Reattention(rate=0.4, delta=0.3, alpha=0.25, beta=0.125)


def attending(*masses: float, heads: int = 2, vision: int = 10) -> torch.Tensor:
    """``[batch, head, vision]``: each sample pays this mass to vision, all of it to its last token."""
    rows = torch.zeros(len(masses), heads, vision)
    rows[..., -1] = torch.tensor(masses)[:, None]
    return rows


def test_three_levels_by_sample():
    allocation = TEN.allocate(request(), signals(attention=attending(0.5, 0.2, 0.0625)))
    assert allocation.counts.tolist() == [[7], [4], [1]]
    assert allocation.counts.dtype == torch.int64
    assert allocation.diagnostics["retention"].tolist() == pytest.approx([0.7, 0.4, 0.1])
    assert allocation.diagnostics["vision_attention"].tolist() == pytest.approx([0.5, 0.2, 0.0625])


def test_alpha_is_included_in_the_upper_level_and_beta_in_the_middle_one():
    allocation = TEN.allocate(request(), signals(attention=attending(0.25, 0.125)))
    assert allocation.counts.tolist() == [[7], [4]]


def test_the_score_is_summed_over_tokens_and_averaged_over_heads():
    attention = torch.tensor([[[0.125, 0.25, 0.0], [0.0, 0.125, 0.0]]])
    allocation = TEN.allocate(request(sizes=(3,)), signals(attention=attention))
    assert allocation.diagnostics["vision_attention"].tolist() == [0.25]


def test_counts_are_per_image_of_the_prompt_and_at_least_one():
    attention = attending(0.0, vision=14)
    allocation = TEN.allocate(request(sizes=(3, 1, 10), original=(40, 4, 10)), signals(attention=attention))
    assert allocation.counts.tolist() == [[3, 1, 1]]


def test_an_image_without_survivors_gets_nothing():
    allocation = TEN.allocate(request(sizes=(0, 5), original=(10, 10)), signals(attention=attending(0.5, vision=5)))
    assert allocation.counts.tolist() == [[0, 5]]


@pytest.mark.parametrize("size", [10, 20, 30, 100, 1000])
def test_rates_are_exact_decimals(size):
    # in binary, 0.4 + 0.3 is below 0.7 and 0.29 * 100 below 29
    allocation = TEN.allocate(request(sizes=(size,)), signals(attention=attending(0.5)))
    assert allocation.counts.item() == size * 7 // 10
    allocation = Reattention(rate=0.29, delta=0).allocate(request(sizes=(size,)), signals(attention=attending(0.5)))
    assert allocation.counts.item() == size * 29 // 100


def test_rounding():
    down, near = (Reattention(rate=0.25, delta=0, rounding=how) for how in ("floor", "half_up"))
    assert down.allocate(request(), signals(attention=attending(0.5))).counts.item() == 2
    assert near.allocate(request(), signals(attention=attending(0.5))).counts.item() == 3


def test_levels_are_clamped():
    both = Reattention(rate=0.5, delta=1.0, alpha=0.5, beta=0.5)
    allocation = both.allocate(request(), signals(attention=attending(0.75, 0.25)))
    assert allocation.counts.tolist() == [[10], [1]]
    assert allocation.diagnostics["retention"].tolist() == [1, 0]


def test_the_budget_gives_the_rate():
    allocator = Reattention(delta=0)
    assert allocator.allocate(request(4), signals(attention=attending(0.5))).counts.item() == 4
    dropped = request(8, sizes=(10,), original=(20,))
    assert allocator.allocate(dropped, signals(attention=attending(0.5))).counts.item() == 8
    mean = allocator.allocate(request(Fraction(9, 2)), signals(attention=attending(0.5)))
    assert mean.diagnostics["retention"].item() == pytest.approx(0.45)


def test_a_keep_ratio_is_taken_as_written():
    # 40 % of 12 tokens resolve to 5, but the rate is 0.4: (0.4 + 0.3) * 12 = 8.4, not (5/12 + 0.3) * 12 = 8.6
    asked = request(5, sizes=(12,), budget=Budget.model_validate(0.4))
    allocation = Reattention(rounding="half_up").allocate(asked, signals(attention=attending(0.5, vision=12)))
    assert allocation.counts.item() == 8


def test_a_rate_and_a_budget_exclude_each_other():
    budget = Budget.model_validate(0.5)
    assert "remove one" in Reattention(rate=0.4).budget_problem(budget)
    assert "rate" in Reattention().budget_problem(None)
    assert Reattention(rate=0.4).budget_problem(None) is None
    assert Reattention().budget_problem(budget) is None


@pytest.mark.parametrize("query", ["last", "text_after_vision", "text"])
def test_it_reads_the_query_rows_it_was_told_to(query):
    allocator = Reattention(rate=0.4, query=query)
    assert allocator.needs() == {Need("attention", query)}
    allocation = allocator.allocate(request(), signals(attention=attending(0.5), query=query))
    assert allocation.counts.item() == 7


def test_a_sample_does_not_depend_on_its_batch_mates():
    torch.manual_seed(0)
    attention = torch.rand(5, 4, 33).softmax(-1) / 3
    together = Reattention(rate=0.4).allocate(request(sizes=(33,)), signals(attention=attention))
    for sample in range(5):
        alone = Reattention(rate=0.4).allocate(request(sizes=(33,)), signals(attention=attention[sample : sample + 1]))
        assert torch.equal(alone.counts[0], together.counts[sample])
        for name, values in alone.diagnostics.items():
            assert torch.equal(values[0], together.diagnostics[name][sample])


def test_thresholds_must_be_in_order():
    with pytest.raises(ValidationError, match=r"alpha=0.1 is below beta=0.3"):
        Reattention(alpha=0.1, beta=0.3)


def test_the_count_is_not_static():
    assert not Reattention().count_is_static
