"""Components that are unlike the built-ins in some way, and keep every promise all the same."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from vtprune.core.component import Component
from vtprune.plugin import (
    Allocation,
    AllocationRequest,
    Allocator,
    Budget,
    Candidates,
    ComponentError,
    Merged,
    Need,
    Reducer,
    Sample,
    Scorer,
    ScorerSpec,
    Selector,
    Signals,
    Task,
    apportion,
)


class ManySignals(Scorer):
    """Three queries, an early layer, features and places.

    share: of the text's attention.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.3

    def needs(self) -> frozenset[Need]:
        attention = {
            Need("attention", "last"),
            Need("attention", "text_after_vision"),
            Need("attention", "received", 0),
        }
        return frozenset({*attention, Need("features"), Need("grid")})

    def score(self, signals: Signals) -> Tensor:
        text = signals.attention("last").mean(1) + self.share * signals.attention("text_after_vision").mean(1)
        spread = F.normalize(signals.features().float(), dim=-1).abs().sum(-1)
        place = signals.coordinates()[..., 2:].float().mean(-1)
        return text + signals.attention("received", 0).amax(1) + 0.01 * spread + 1e-3 * place


class PerKVHead(Scorer):
    """A score for each KV head, from keys, values and the queries of its group: at .kv sites alone."""

    @property
    def granularity(self) -> Literal["token", "head"]:
        return "head"

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("keys"), Need("values"), Need("queries")})

    def score(self, signals: Signals) -> Tensor:
        keys, values = signals.keys().float(), signals.values().float()
        queries = signals.queries().float().unflatten(1, (keys.shape[1], -1)).mean(2)
        return F.cosine_similarity(keys, queries, dim=-1) + 1e-3 * F.normalize(values, dim=-1).abs().sum(-1)


class FromCentre(Scorer):
    """Distance from the centre of the image: reads the grids of the segments, not the coordinates of the survivors."""

    @property
    def permutation_equivariant(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("grid")})

    def score(self, signals: Signals) -> Tensor:
        found = []
        for sample, alive in enumerate(signals.alive):
            parts = []
            for segment in signals.segments(sample):
                assert segment.grid is not None
                frames, *sides = segment.grid
                rows, columns = ((torch.arange(n, device=signals.device) - (n - 1) / 2) / n for n in sides)
                parts.append(-(rows[:, None] ** 2 + columns**2).flatten().repeat(frames))
            found.append(torch.cat(parts)[alive])
        return torch.stack(found)


class Probe(Scorer):
    """A linear probe whose weights are kept once they were made, as those of a file would be.

    temperature: divides what goes into the sigmoid.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0

    @cached_property
    def weights(self) -> Tensor:
        return torch.randn(16, generator=torch.Generator().manual_seed(0))

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features")})

    def score(self, signals: Signals) -> Tensor:
        unit = F.normalize(signals.features().float(), dim=-1)
        weights = self.weights.repeat(math.ceil(unit.shape[-1] / 16))[: unit.shape[-1]]
        return torch.sigmoid(unit @ weights.to(unit.device) / self.temperature)


class Trained(Scorer):
    """A linear probe that was trained for one model: it serves vectors of one length, those of a file of weights.

    weights: a safetensors file with `w`, float `[dim]`.
    """

    weights: Path

    @classmethod
    def examples(cls) -> tuple[Trained, ...]:
        folder = Path(tempfile.gettempdir()) / "vtprune_trained_probe"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{seed}.safetensors" for seed in range(2)]
        for seed, path in enumerate(paths):
            if not path.is_file():
                save_file({"w": torch.randn(64, generator=torch.Generator().manual_seed(seed))}, path)
        return tuple(cls(weights=path) for path in paths)

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features")})

    def score(self, signals: Signals) -> Tensor:
        features, weights = signals.features().float(), load_file(self.weights)["w"]
        if features.shape[-1] != len(weights):
            raise ComponentError(f"Trained has weights for {len(weights)} numbers a token, got {features.shape[-1]}")
        return features @ weights.to(features.device)


class Marked(Scorer):
    """The annotation, weighed by place.

    width: in tokens.
    """

    width: Annotated[float, Field(gt=0)] = 2.0

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("annotation"), Need("grid")})

    def score(self, signals: Signals) -> Tensor:
        place = signals.coordinates()[..., 2:].float().square().sum(-1)
        return signals.annotation() * torch.exp(-place / self.width**2)


class Parts(Scorer):
    """Ranks of two others, mixed; all of its parameters but one are required, or no plain numbers.

    one, two: the others.
    weights: of each, by name; 1 where it is left out.
    offset: added to the two ranks.
    most: no score is higher, unless left out.
    """

    one: ScorerSpec
    two: ScorerSpec
    weights: dict[Literal["one", "two"], float] = Field(default_factory=dict)
    offset: tuple[float, float] = (0.0, 0.25)
    most: float | None = None

    def __hash__(self) -> int:
        return hash((self.one, self.two, tuple(sorted(self.weights.items())), self.offset, self.most))

    @classmethod
    def examples(cls) -> tuple[Parts, ...]:
        names = ({"name": "uniform_grid"}, {"name": "random", "seed": 3}, {"name": "key_norm"})
        one, two, three = names
        return (
            cls.model_validate({"one": one, "two": two}),
            cls.model_validate({"one": three, "two": one, "weights": {"one": 0.5}}),
        )

    @property
    def permutation_equivariant(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return self.one.needs() | self.two.needs()

    def score(self, signals: Signals) -> Tensor:
        total = torch.zeros(signals.batch, signals.vision, device=signals.device)
        for name, part, offset in zip(("one", "two"), (self.one, self.two), self.offset, strict=True):
            scores = part.score(signals).float()
            scores = scores.mean(1) if scores.dim() == 3 else scores
            rank = scores.argsort(dim=-1, stable=True).argsort(dim=-1)
            weight = self.weights.get(name, 1.0)  # type: ignore[call-overload]
            total = total + weight * (rank + offset) ** 2
        return total if self.most is None else total.clamp(max=self.most)


def _first(candidates: Candidates, counts: Tensor) -> Tensor:
    """Protected tokens, then the best of the others: ``counts`` in all."""
    assert candidates.scores is not None
    order = candidates.scores.argsort(dim=-1, descending=True, stable=True)
    protected = candidates.protected.long().gather(-1, order)
    order = order.gather(-1, protected.argsort(dim=-1, descending=True, stable=True))
    return order.argsort(dim=-1) < counts.to(order.device).unsqueeze(-1)


class Share(Selector):
    """Keeps a share of what was allocated.

    share: of the counts, rounded up.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.5

    @property
    def count_is_exact(self) -> bool:
        return False

    def select(self, candidates: Candidates) -> Tensor:
        counts = (candidates.counts * self.share).ceil().long()
        return _first(candidates, counts.maximum(candidates.protected.sum(-1).cpu()))


class Runs(Selector):
    """Keeps runs of three neighbours, by the best score in each; a rest goes to the best tokens."""

    expected_failures: ClassVar[Mapping[str, str]] = {"of_duplicates_the_first_is_kept": "places take part"}

    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.scores is not None
        kept = candidates.protected.clone()
        for row, count in enumerate(candidates.counts.tolist()):
            scores = candidates.scores[row].tolist()
            best = {token: max(scores[token // 3 * 3 : token // 3 * 3 + 3]) for token in range(len(scores))}
            order = sorted(
                range(len(scores)),
                key=lambda token: (
                    not bool(candidates.protected[row, token]),
                    scores[token] != math.inf,
                    scores[token] == -math.inf,
                    -best[token],
                    token,
                ),
            )
            kept[row, order[:count]] = True
        return kept


class HeadsUnalike(Allocator):
    """Odd KV heads keep twice as much as even ones: at .kv sites alone."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        if request.kv_heads is None:
            raise ComponentError("HeadsUnalike shares tokens between KV heads, which only .kv sites have")
        assert request.target is not None
        size, heads = sum(request.sizes), request.kv_heads
        total = min(math.floor(request.target * heads), size * heads)
        counts = apportion(total, [1 + head % 2 for head in range(heads)], [size] * heads)
        rows = [apportion(count, list(request.sizes), list(request.sizes)) for count in counts]
        return Allocation(torch.tensor(rows).expand(signals.batch, -1, -1))


class TokensOnly(Allocator):
    """Takes numbers of tokens alone."""

    def budget_problem(self, budget: Budget | None) -> str | None:
        return None if budget is not None and budget.unit == "keep_tokens" else "expects `budget: {keep_tokens: 64}`"

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.target is not None
        total = min(math.floor(request.target), sum(request.sizes))
        counts = apportion(total, list(request.sizes), list(request.sizes))
        return Allocation(torch.tensor(counts).expand(signals.batch, -1))


class ByPeak(Allocator):
    """Half of the budget, up to all of it where the tower's attention has a peak; says how high that is.

    layer: of the tower.
    """

    layer: int = -2

    @property
    def count_is_static(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("vision_attention", "received", self.layer)})

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.target is not None
        attention = signals.vision_attention("received", self.layer).mean(1)
        peak = attention.amax(-1) / attention.sum(-1).clamp(min=1e-12)
        counts, sizes = [], list(request.sizes)
        for share in peak.clamp(max=1).tolist():
            most = min(math.floor(request.target), sum(sizes))
            total = max(min(1, most), math.floor(most * (1 + Fraction(round(share * 100), 100)) / 2))
            counts.append(apportion(total, sizes, sizes))
        return Allocation(torch.tensor(counts), {"peak": peak})


class EvictOnly(Reducer):
    """Serves caches alone."""

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"kv"})


class MergeNear(Reducer):
    """Merges what is near to a kept token; the rest goes for good.

    least: cosine from which on a token is near.
    """

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"hidden"})
    expected_failures: ClassVar[Mapping[str, str]] = {"sizes_are_conserved": "far tokens go for good"}
    least: Annotated[float, Field(ge=-1, le=1)] = 0.2

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged:
        exact = features.float()
        unit = F.normalize(exact, dim=-1)
        best, into = (unit @ unit.mT).masked_fill(~keep.unsqueeze(1), -2).max(-1)
        weight = torch.where(~keep & (best >= self.least), sizes, 0)
        gained = torch.zeros_like(sizes).scatter_add(1, into, weight)
        total = (sizes + gained).unsqueeze(-1)
        share = (weight / total.squeeze(-1).gather(1, into)).unsqueeze(-1)
        added = torch.zeros_like(exact).scatter_add(1, into.unsqueeze(-1).expand_as(exact), exact * share)
        mean = exact * (sizes.unsqueeze(-1) / total) + added
        touched = (keep & (gained > 0)).unsqueeze(-1)
        return Merged(torch.where(touched, mean.to(features.dtype), features), sizes + gained)


class Endless(Task):
    """More pictures than one would make: each is drawn when it is asked for.

    count: of pictures.
    """

    count: Annotated[int, Field(ge=1)] = 10**9

    def samples(self) -> Iterator[Sample]:
        for number in range(self.count):
            picture = Image.new("RGB", (32, 32 + number % 7), (number % 256, 0, 0))
            yield Sample(str(number), (picture, "how red ?", picture), (str(number % 256), "very"), "colour")

    def has_regions(self, limit: int | None) -> bool:
        return False


UNUSUAL: tuple[type[Component], ...] = (
    ManySignals,
    PerKVHead,
    FromCentre,
    Probe,
    Trained,
    Marked,
    Parts,
    Share,
    Runs,
    HeadsUnalike,
    TokensOnly,
    ByPeak,
    EvictOnly,
    MergeNear,
    Endless,
)
IN_MODEL = (Trained, PerKVHead, HeadsUnalike, TokensOnly, ByPeak)
"""Those that are unusual in a model too."""
