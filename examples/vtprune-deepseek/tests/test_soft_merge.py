from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from vtprune_deepseek.soft_merge import SoftMerge

import vtprune
from vtprune.plugin import Reducer


def batch(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features ``[3, 12, 5]``, a kept set of another size in each sample, sizes."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 12, 5, generator=generator).to(dtype)
    keep = torch.stack([torch.randperm(12, generator=generator) < count for count in (1, 4, 9)])
    return features, keep, torch.randint(1, 5, (3, 12), generator=generator).float()


def built_in_merge() -> Reducer:
    """vtprune's own ``merge``, which weighs by size."""
    stage = {
        "site": "projector.output",
        "scorer": "random",
        "budget": 0.5,
        "reducer": {"name": "merge", "weighting": "size"},
    }
    reducer = vtprune.Recipe.parse({"stages": [stage]}).stages[0].reducer
    assert reducer is not None
    return reducer


def test_by_hand() -> None:
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [3.0, 3.0], [0.0, 5.0]]])
    keep = torch.tensor([[True, True, False, False]])
    merged = SoftMerge(temperature=0.5).merge(features, keep, torch.tensor([[1.0, 2.0, 4.0, 1.0]]))
    # Token 2 resembles both equally; token 3 has cosines 0 and 1.
    near = math.exp(2) / (math.exp(2) + 1)
    sizes = [1 + 4 / 2 + (1 - near), 2 + 4 / 2 + near]
    first = [(1 * 1 + 2 * 3) / sizes[0], (2 * 3 + (1 - near) * 5) / sizes[0]]
    second = [(2 * 3) / sizes[1], (2 * 1 + 2 * 3 + near * 5) / sizes[1]]
    assert torch.allclose(merged.features[0, :2], torch.tensor([first, second]))
    assert torch.allclose(merged.sizes[0, :2], torch.tensor(sizes))


@pytest.mark.parametrize("seed", range(10))
def test_with_one_neighbour_it_is_the_hard_merge(seed: int) -> None:
    features, keep, sizes = batch(seed)
    soft, hard = SoftMerge(neighbours=1).merge(features, keep, sizes), built_in_merge().merge(features, keep, sizes)
    assert hard is not None
    assert torch.allclose(soft.features[keep], hard.features[keep], atol=1e-6)
    assert torch.equal(soft.sizes[keep], hard.sizes[keep])


def test_the_colder_the_nearer_to_the_hard_merge() -> None:
    features, keep, sizes = batch(0)
    hard = SoftMerge(neighbours=1).merge(features, keep, sizes).features[keep]
    away = [
        float((SoftMerge(temperature=warmth).merge(features, keep, sizes).features[keep] - hard).abs().max())
        for warmth in (1.0, 0.1, 1e-4)
    ]
    assert away[0] > away[1] > away[2]
    assert away[2] < 1e-4


@pytest.mark.parametrize("reducer", SoftMerge.examples(), ids=repr)
def test_sizes_and_weighted_sums_are_conserved(reducer: SoftMerge) -> None:
    features, keep, sizes = batch(1)
    merged = reducer.merge(features, keep, sizes)
    for sample in range(3):
        kept = keep[sample]
        assert torch.allclose(merged.sizes[sample, kept].sum(), sizes[sample].sum())
        after = (merged.features[sample, kept] * merged.sizes[sample, kept, None]).sum(0)
        assert torch.allclose(after, (features[sample] * sizes[sample, :, None]).sum(0), atol=1e-4)


def test_neighbours_limit_who_receives() -> None:
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.1]]])
    keep = torch.tensor([[True, True, True, True, False]])
    merged = SoftMerge(neighbours=2).merge(features, keep, torch.ones(1, 5))
    assert torch.equal(merged.features[0, 2:4], features[0, 2:4])
    assert merged.sizes[0].tolist() == pytest.approx([1.5, 1.5, 1, 1, 1], abs=0.01)
    assert bool((SoftMerge(temperature=1.0).merge(features, keep, torch.ones(1, 5)).sizes[0, :4] > 1).all())


def test_a_temperature_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"temperature=0\.5 has no effect with neighbours: 1"):
        SoftMerge(neighbours=1, temperature=0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(ValidationError):
        SoftMerge(temperature=temperature)
