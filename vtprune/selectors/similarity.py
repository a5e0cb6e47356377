"""Inner products and cosines between tokens: all at once, or only the rows that a greedy loop reads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vtprune.core.errors import ComponentError

ROWS_PAY_BELOW = 1 / 16
"""Single rows are cheaper than the full matrix while the rows read are fewer than this share of the tokens."""
BLOCK = 1024


def finite_norms(features: Tensor) -> Tensor:
    """float32 ``[row, vision, 1]``: lengths, summed in float64 so that no square overflows or vanishes.

    Raises ComponentError if a feature is NaN or infinite.
    """
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True, dtype=torch.float64)
    if not torch.isfinite(norms).all():
        raise ComponentError(
            f"features with NaN or infinity in {int((~torch.isfinite(norms)).sum())} of {norms.numel()} tokens cannot "
            f"be compared; a likely cause is float16 overflow in the model, which bfloat16 or float32 avoids"
        )
    return norms.float()


def unit_vectors(features: Tensor) -> Tensor:
    """float32 ``[row, vision, dim]`` of length 1; zero vectors stay zero."""
    norms = finite_norms(features)
    return features / norms.masked_fill(norms == 0, 1)


class Products:
    """Inner products of ``points``, float32 ``[row, vision, dim]``.

    reads: how many rows the caller is going to read. Greedy selection only ever reads the rows of selected tokens, so
    for small counts the ``vision x vision`` matrix is never made.
    """

    def __init__(self, points: Tensor, reads: int) -> None:
        self.points = points
        self._each = torch.arange(points.shape[0], device=points.device)
        self._matrix = self.all() if reads >= ROWS_PAY_BELOW * points.shape[1] else None

    def block(self, start: int, stop: int) -> Tensor:
        """float32 ``[row, stop - start, vision]``: products of a range of tokens with all tokens, computed anew."""
        return torch.bmm(self.points[:, start:stop], self.points.mT)

    def all(self) -> Tensor:
        """float32 ``[row, vision, vision]``."""
        return self.block(0, self.points.shape[1])

    def of(self, picked: Tensor) -> Tensor:
        """float32 ``[row, vision]``: products of one token of each row, ``picked`` int64 ``[row]``, with all others."""
        if self._matrix is not None:
            return self._matrix[self._each, picked]
        return torch.bmm(self.points, self.points[self._each, picked].unsqueeze(-1)).squeeze(-1)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All products as (first token, float32 ``[row, block, vision]``), a block of tokens at a time."""
        for start in range(0, self.points.shape[1], BLOCK):
            stop = start + BLOCK
            yield start, self.block(start, stop) if self._matrix is None else self._matrix[:, start:stop]


class Cosines(Products):
    """Cosine similarities in [-1, 1] of ``features``, float32 ``[row, vision, dim]``.

    A zero vector (padding, a dead feature) is orthogonal to all others and a duplicate of every other zero vector.
    """

    def __init__(self, features: Tensor, reads: int) -> None:
        points = unit_vectors(features)
        self._zero = (points.square().sum(-1) < 0.5).float()
        super().__init__(points, reads)

    def block(self, start: int, stop: int) -> Tensor:
        """float32 ``[row, stop - start, vision]``."""
        both_zero = self._zero[:, start:stop].unsqueeze(-1) * self._zero.unsqueeze(-2)
        return both_zero.baddbmm_(self.points[:, start:stop], self.points.mT).clamp_(-1, 1)

    def of(self, picked: Tensor) -> Tensor:
        """float32 ``[row, vision]``: cosines of one token of each row with all tokens of the row."""
        if self._matrix is not None:
            return super().of(picked)
        zero = self._zero * self._zero.gather(-1, picked.unsqueeze(-1))
        return (super().of(picked) + zero).clamp_(-1, 1)
