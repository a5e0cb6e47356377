"""A few rows of attention against the full softmax."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vtprune.core.engine.attention import ROWS_AT_ONCE, attention_rows

BATCH, HEADS, KV_HEADS, DIM = 2, 4, 2, 8


def slow(
    query: Tensor,
    key: Tensor,
    allowed: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    weights: Tensor,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """One sample, head and row at a time, in float64; allowed: bool ``[batch, token, key]``."""
    result = torch.zeros(query.shape[0], query.shape[1], key.shape[2], dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for row, weight in zip(rows[b].tolist(), weights[b].tolist(), strict=True):
                scores = key[b, h // (query.shape[1] // key.shape[1])].double() @ query[b, h, row].double() * scaling
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if bias is not None:
                    scores = scores + bias[b, row].double()
                result[b, h] += weight * scores.masked_fill(~allowed[b, row], -torch.inf).softmax(-1)
    return result.float()


def causal(new: int, keys: int) -> Tensor:
    return torch.ones(BATCH, new, keys, dtype=torch.bool).tril(keys - new)


def tensors(new: int, keys: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(new + keys)
    return torch.randn(BATCH, HEADS, new, DIM).to(dtype), torch.randn(BATCH, KV_HEADS, keys, DIM).to(dtype)


def some_rows(new: int, count: int) -> tuple[Tensor, Tensor]:
    rows = torch.stack([torch.randperm(new)[:count] for _ in range(BATCH)])
    weights = torch.rand(BATCH, count)
    return rows, weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_causal_rows_without_a_mask(past: int, softcap: float | None, scaling: float | None) -> None:
    query, key = tensors(9, 9 + past)
    rows, weights = some_rows(9, 4)
    seen = attention_rows(query, key, None, rows, weights, scaling=scaling, causal=True, softcap=softcap)
    expected = slow(query, key, causal(9, 9 + past), None, rows, weights, scaling or 1 / math.sqrt(DIM), softcap)
    torch.testing.assert_close(seen, expected)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen.sum(-1), torch.ones(BATCH, HEADS))


def test_rows_without_causality() -> None:
    query, key = tensors(6, 6)
    rows, weights = some_rows(6, 6)
    seen = attention_rows(query, key, None, rows, weights, scaling=None, causal=False)
    everything = torch.ones(BATCH, 6, 6, dtype=torch.bool)
    torch.testing.assert_close(seen, slow(query, key, everything, None, rows, weights, DIM**-0.5, None))


@pytest.mark.parametrize("heads", [1, HEADS])
def test_a_bool_mask_decides_alone(heads: int) -> None:
    query, key = tensors(6, 8)
    rows, weights = some_rows(6, 3)
    allowed = torch.rand(BATCH, 6, 8) > 0.4
    allowed[..., 0] = True
    mask = allowed[:, None].expand(-1, heads, -1, -1)
    seen = attention_rows(query, key, mask, rows, weights, scaling=None, causal=True)
    torch.testing.assert_close(seen, slow(query, key, allowed, None, rows, weights, DIM**-0.5, None))
    torch.testing.assert_close(
        attention_rows(query, key, mask[:1].expand(BATCH, -1, -1, -1), rows, weights, scaling=None, causal=True)[0],
        seen[0],
    )


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_an_additive_mask_is_added_after_the_cap(softcap: float | None) -> None:
    query, key = tensors(6, 8)
    rows, weights = some_rows(6, 3)
    bias = torch.randn(BATCH, 6, 8)
    seen = attention_rows(query, key, bias[:, None], rows, weights, scaling=None, causal=True, softcap=softcap)
    everything = torch.ones(BATCH, 6, 8, dtype=torch.bool)
    torch.testing.assert_close(seen, slow(query, key, everything, bias, rows, weights, DIM**-0.5, softcap))


def test_a_mask_wider_than_the_keys_is_cut() -> None:
    query, key = tensors(4, 6)
    rows, weights = some_rows(4, 2)
    mask = torch.ones(BATCH, 1, 4, 9, dtype=torch.bool)
    torch.testing.assert_close(
        attention_rows(query, key, mask, rows, weights, scaling=None, causal=True),
        attention_rows(query, key, mask[..., :6], rows, weights, scaling=None, causal=True),
    )


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("past", [0, 4])
def test_a_padding_mask_and_a_window_as_flash_kernels_have_them(window: int | None, past: int) -> None:
    query, key = tensors(7, 7 + past)
    rows, weights = some_rows(7, 5)
    padding = torch.ones(BATCH, 7 + past, dtype=torch.long)
    padding[0, 1] = 0
    allowed = causal(7, 7 + past) & padding[:, None].bool()
    if window is not None:
        allowed &= torch.ones(BATCH, 7, 7 + past, dtype=torch.bool).triu(past - window + 1)
    allowed[..., torch.arange(7), torch.arange(7) + past] |= True
    padding_rows = rows.clone()
    padding_rows[0][padding_rows[0] == 1 - past] = 6
    seen = attention_rows(query, key, padding, padding_rows, weights, scaling=None, causal=True, sliding_window=window)
    torch.testing.assert_close(seen, slow(query, key, allowed, None, padding_rows, weights, DIM**-0.5, None))


@pytest.mark.parametrize("new", [ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 3 * ROWS_AT_ONCE + 5])
def test_many_rows_are_read_in_parts(new: int) -> None:
    query, key = tensors(new, new)
    rows = torch.arange(new).expand(BATCH, -1)
    weights = torch.full((BATCH, new), 1 / new)
    seen = attention_rows(query, key, None, rows, weights, scaling=None, causal=True)
    torch.testing.assert_close(seen, slow(query, key, causal(new, new), None, rows, weights, DIM**-0.5, None))


def test_a_row_of_weight_zero_counts_nothing() -> None:
    query, key = tensors(5, 5)
    rows = torch.tensor([[4, 0], [4, 2]])
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    seen = attention_rows(query, key, None, rows, weights, scaling=None, causal=True)
    torch.testing.assert_close(
        seen, attention_rows(query, key, None, rows[:, :1], weights[:, :1], scaling=None, causal=True)
    )


def test_bfloat16_comes_out_as_float32_and_close() -> None:
    query, key = tensors(9, 9, torch.bfloat16)
    rows, weights = some_rows(9, 4)
    seen = attention_rows(query, key, None, rows, weights, scaling=None, causal=True)
    assert seen.dtype == torch.float32
    expected = slow(query.float(), key.float(), causal(9, 9), None, rows, weights, DIM**-0.5, None)
    torch.testing.assert_close(seen, expected, rtol=0.05, atol=0.01)
    torch.testing.assert_close(seen.sum(-1), torch.ones(BATCH, HEADS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masked_keys_get_nothing_in_half_precision(dtype: torch.dtype) -> None:
    query, key = tensors(5, 5, dtype)
    rows, weights = torch.full((BATCH, 1), 2), torch.ones(BATCH, 1)
    for mask in (None, torch.ones(5, 5, dtype=torch.bool).tril()[None, None].expand(BATCH, -1, -1, -1)):
        seen = attention_rows(query, key, mask, rows, weights, scaling=None, causal=True)
        assert not seen[..., 3:].any()
