"""What selectors are handed: ordinary candidates, degenerate features, scores without an order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vtprune.core.component import Candidates, Selector
from vtprune.testing.inputs.trials import Tensors, Trial

FEATURES = (
    "random",
    "constant",
    "zeros",
    "some zeros",
    "duplicates",
    "near duplicates",
    "rank one",
    "huge",
    "tiny",
    "denormal",
)
"""What `hard_features` makes."""


def noise(rows: int, vision: int, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores float32 ``[row, vision]`` in (0, 1) and features float32 ``[row, vision, dim]``, free of ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, vision, generator=generator), torch.randn(rows, vision, dim, generator=generator)


def hard_features(kind: str, rows: int, vision: int, dim: int = 6, seed: int = 0) -> Tensor:
    """float32 ``[row, vision, dim]`` that break careless code; ``kind`` is one of `FEATURES`.

    Constant images, dead features, copies, a kernel of rank one, squares that overflow or vanish.
    """
    _, random = noise(rows, vision, dim, seed)
    match kind:
        case "random":
            return random
        case "constant":
            return random[:, :1].expand(rows, vision, dim).clone()
        case "zeros":
            return torch.zeros(rows, vision, dim)
        case "some zeros":
            return random * (torch.arange(vision) % 3 > 0).view(1, -1, 1)
        case "duplicates":
            return random[:, torch.arange(vision) % max(1, vision // 3)]
        case "near duplicates":
            return random[:, :1] + 1e-4 * random
        case "rank one":
            return random[..., :1] * random[:, :1]
        case "huge":
            return random * 1e30
        case "tiny":
            return random * 1e-30
        case "denormal":
            return random * 1e-41
    raise ValueError(f"unknown kind of features {kind!r}; known: {', '.join(FEATURES)}")


def candidates(
    counts: int | Sequence[int],
    scores: Tensor | None = None,
    features: Tensor | None = None,
    protected: Tensor | None = None,
) -> Candidates:
    """Candidates from tensors with a row axis, or of a single row without one.

    counts: one for all rows, or one for each. scores: float ``[(row,) vision]``; features: float
    ``[(row,) vision, dim]``, at least one of the two. protected: bool ``[(row,) vision]``, by default none.
    """
    scores = scores[None] if scores is not None and scores.dim() == 1 else scores
    features = features[None] if features is not None and features.dim() == 2 else features
    given = scores if scores is not None else features
    if given is None:
        raise ValueError("candidates need scores or features, which say how many rows and tokens there are")
    rows, vision = given.shape[:2]
    if protected is None:
        protected = torch.zeros(rows, vision, dtype=torch.bool)
    if isinstance(counts, int):
        counts = [counts] * rows
    return Candidates(torch.tensor(counts), vision, scores, features, protected.view(rows, vision))


def ordinary(
    counts: Sequence[int], vision: int = 12, dim: int = 6, protect: Sequence[int] = (), seed: int = 0
) -> Candidates:
    """Candidates free of ties, a row for each count, in which every row protects the tokens ``protect``."""
    scores, features = noise(len(counts), vision, dim, seed)
    protected = torch.zeros(len(counts), vision, dtype=torch.bool)
    protected[:, list(protect)] = True
    return candidates(counts, scores, features, protected)


def row(given: Candidates, rows: Sequence[int]) -> Candidates:
    """Some rows of the candidates, in this order."""
    index = torch.tensor(list(rows), dtype=torch.int64)
    return replace(
        given,
        counts=given.counts[index],
        scores=None if given.scores is None else given.scores[index],
        features=None if given.features is None else given.features[index],
        protected=given.protected[index],
    )


def declared(selector: Selector, given: Candidates) -> Candidates:
    """The candidates as the engine would hand them to this selector: nothing that it does not declare."""
    return replace(
        given,
        scores=given.scores if selector.uses_scores else None,
        features=given.features if selector.feature_source else None,
    )


def trials_of(selector: Selector) -> Iterator[Trial]:
    """Rows with different counts, with and without protected tokens, and one alone."""

    def call(inputs: Tensors) -> Tensors:
        given = Candidates(
            inputs["counts"],
            inputs["protected"].shape[-1],
            inputs.get("scores"),
            inputs.get("features"),
            inputs["protected"],
        )
        return {"kept": selector.select(given)}

    cases = {
        "three rows": ordinary([5, 3, 9]),
        "three rows with protected tokens": ordinary([5, 3, 9], protect=[2, 10]),
        "one row": ordinary([4], seed=1),
    }
    for label, given in cases.items():
        handed = declared(selector, given)
        tensors = {name: getattr(handed, name) for name in ("counts", "scores", "features", "protected")}
        inputs = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        yield Trial(label, inputs, call, frozenset({"counts"}))
