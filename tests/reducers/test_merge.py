from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vtprune.reducers.merge import Merge

BOTH = pytest.mark.parametrize("merge", [Merge(), Merge(weighting="size")], ids=["mean", "size"])


def one(features: list[list[float]], keep: str, sizes: list[float] | None = None) -> tuple[torch.Tensor, ...]:
    """A batch of one sample; ``keep`` is written like "x.x"."""
    points = torch.tensor([features])
    mask = torch.tensor([[mark == "x" for mark in keep]])
    return points, mask, torch.ones(mask.shape) if sizes is None else torch.tensor([sizes])


def test_the_rest_is_averaged_into_the_nearest_by_direction():
    # token 2 is nearer to token 1 by distance and by dot product
    features, keep, sizes = one([[1.0, 0.0], [10.0, 10.0], [30.0, 10.0], [1.0, 1.0]], "xx..")
    merged = Merge().merge(features, keep, sizes)
    assert merged.features[0, :2].tolist() == [[15.5, 5.0], [5.5, 5.5]]
    assert merged.sizes[0, :2].tolist() == [2, 2]


def test_ties_go_to_the_lower_index():
    features, keep, sizes = one([[1.0, 1.0], [2.0, 0.0], [0.0, 4.0], [0.0, 2.0]], ".x.x")
    merged = Merge().merge(features, keep, sizes)
    # token 0 is as near to 1 as to 3; token 2 goes to 3
    assert merged.features[0, [1, 3]].tolist() == [[1.5, 0.5], [0.0, 3.0]]
    assert merged.sizes[0, [1, 3]].tolist() == [2, 2]


def test_weighting_by_size():
    features, keep, sizes = one([[2.0], [5.0], [8.0]], "x..", [1.0, 2.0, 3.0])
    mean, size = Merge().merge(features, keep, sizes), Merge(weighting="size").merge(features, keep, sizes)
    assert mean.features[0, 0].item() == 5
    assert size.features[0, 0].item() == 6  # (2 * 1 + 5 * 2 + 8 * 3) / 6
    assert mean.sizes[0, 0] == size.sizes[0, 0] == 6


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kept", [0, 12])
def test_keeping_all_or_none_changes_no_bit(merge, dtype, kept):
    features = torch.randn(2, 12, 5, dtype=torch.float64).to(dtype)
    sizes = torch.rand(2, 12) + 0.3
    merged = merge.merge(features, (torch.arange(12) < kept).expand(2, -1), sizes)
    assert merged.features.dtype == dtype
    assert torch.equal(merged.features, features)
    assert torch.equal(merged.sizes, sizes)


@BOTH
def test_a_kept_token_that_receives_nothing_stays_bit_for_bit(merge):
    features = torch.randn(1, 200, 7, generator=torch.Generator().manual_seed(0))
    features[0, 199] = features[0, 0]
    sizes = torch.full((1, 200), 0.7)
    merged = merge.merge(features, (torch.arange(200) < 199)[None], sizes)
    assert torch.equal(merged.features[0, 1:199], features[0, 1:199])
    assert merged.sizes[0, 0].item() == pytest.approx(1.4)


@BOTH
def test_low_precision_is_summed_in_float32(merge):
    # bfloat16 holds neither the sum, 259, nor the number of tokens, 257
    features = torch.full((1, 257, 1), 1 + 2**-7, dtype=torch.bfloat16)
    features[0, 0] = 1
    merged = merge.merge(features, (torch.arange(257) == 0)[None], torch.ones(1, 257))
    assert merged.features.dtype == torch.bfloat16
    assert merged.features[0, 0].item() == 1 + 2**-7
    assert merged.sizes.dtype == torch.float32
    assert merged.sizes[0, 0].item() == 257


@BOTH
@given(data=st.data())
def test_properties(merge, data):
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    batch, vision, dim = (data.draw(st.integers(1, high)) for high in (3, 12, 4))
    features = torch.randint(-2, 3, (batch, vision, dim)).float()
    keep = torch.rand(batch, vision) < data.draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    sizes = torch.randint(1, 5, (batch, vision)).float()
    before = features.clone(), keep.clone(), sizes.clone()

    merged = merge.merge(features, keep, sizes)

    for value, copy in zip((features, keep, sizes), before, strict=True):
        assert torch.equal(value, copy)
    assert merged.features.shape == features.shape
    for sample in range(batch):
        if keep[sample].any():
            assert merged.sizes[sample, keep[sample]].sum() == sizes[sample].sum()
            low, high = features[sample].amin(0) - 1e-5, features[sample].amax(0) + 1e-5
            kept = merged.features[sample, keep[sample]]
            assert ((low <= kept) & (kept <= high)).all()
        alone = merge.merge(features[sample : sample + 1], keep[sample : sample + 1], sizes[sample : sample + 1])
        assert torch.equal(alone.features[0], merged.features[sample])
        assert torch.equal(alone.sizes[0], merged.sizes[sample])


@given(seed=st.integers(0, 10**6))
def test_weighting_by_size_preserves_the_weighted_sum(seed):
    torch.manual_seed(seed)
    features, sizes = torch.randn(1, 9, 3), torch.randint(1, 4, (1, 9)).float()
    keep = torch.arange(9)[None] < 4
    merged = Merge(weighting="size").merge(features, keep, sizes)
    after = (merged.features * merged.sizes[..., None])[keep].sum(0)
    assert torch.allclose(after, (features * sizes[..., None]).sum((0, 1)), atol=1e-4)


@BOTH
def test_degenerate_features_are_merged_like_any_others(merge):
    features = torch.zeros(1, 4, 3)
    merged = merge.merge(features, torch.tensor([[False, True, True, False]]), torch.ones(1, 4))
    assert torch.equal(merged.features, features)
    assert merged.sizes[0, 1:3].tolist() == [3, 1]


def test_unknown_weighting():
    with pytest.raises(ValidationError):
        Merge(weighting="median")
