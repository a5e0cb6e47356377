"""Random: one number per token, wherever, whenever and with whomever it is asked for."""

from __future__ import annotations

import torch

from tests.scorers.support import layout, signals_of
from vtprune.core.signals import Need
from vtprune.scorers.random import Random

SEEDS = Need("sample_seed")


def scores(scorer: Random, seeds: list[int], layouts: tuple, alive: torch.Tensor | None = None) -> torch.Tensor:
    return scorer.score(signals_of({SEEDS: torch.tensor(seeds)}, layouts, alive))


def test_uniform_in_the_unit_interval() -> None:
    found = scores(Random(), [5], (layout((1, 100, 100)),))[0]
    assert found.min() >= 0
    assert found.max() < 1
    counts = torch.histc(found, bins=10, min=0, max=1)
    assert (counts - 1000).abs().max() < 150, "five standard deviations of a binomial count"
    assert torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1].abs() < 0.05


def test_earlier_drops_change_nothing() -> None:
    one = layout((1, 4, 5))
    everything = scores(Random(seed=3), [11, 12], (one, one))
    alive = torch.tensor([[0, 3, 4, 19], [2, 7, 8, 9]])
    assert torch.equal(scores(Random(seed=3), [11, 12], (one, one), alive), everything.gather(1, alive))


def test_samples_of_different_sizes_in_one_bucket() -> None:
    small, large = layout((1, 2, 2)), layout((1, 4, 5))
    alive = torch.tensor([[0, 1, 3], [0, 10, 19]])
    found = scores(Random(), [1, 2], (small, large), alive)
    assert torch.equal(found[0], scores(Random(), [1], (small,))[0, alive[0]])
    assert torch.equal(found[1], scores(Random(), [2], (large,))[0, alive[1]])


def test_order_of_samples_changes_nothing_but_content_and_seed_do() -> None:
    one = layout((1, 4, 5))
    forward, backward = (scores(Random(), seeds, (one, one)) for seeds in ([1, 2], [2, 1]))
    assert torch.equal(forward, backward.flip(0))
    assert not torch.equal(forward[0], forward[1])
    assert not torch.equal(forward, scores(Random(seed=1), [1, 2], (one, one)))


def test_seed_and_content_do_not_cancel() -> None:
    one = layout((1, 4, 5))
    rows = [scores(Random(seed=seed), [content], (one,))[0] for seed in range(-3, 4) for content in range(-3, 4)]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
