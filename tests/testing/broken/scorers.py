"""Scorers that break one promise each: what the checks of scorers have to find.

`BROKEN` names the check that has to fail; `ALSO` those that then cannot but fail too.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals


def lengths(signals: Signals) -> Tensor:
    """float32 ``[batch, vision]``: the length of each token's features."""
    return signals.features().float().norm(dim=-1)


class Length(Scorer):
    """The length of a token's features, as it should be; most of what is broken below is derived from it."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features")})

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals)


class PerHead(Scorer):
    """The length of a token's key, head by head, as it should be."""

    @property
    def granularity(self) -> str:
        return "head"

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("keys")})

    def score(self, signals: Signals) -> Tensor:
        return signals.keys().float().norm(dim=-1)


class Attended(Scorer):
    """The mean attention that a token gets, as it should be."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("attention", "last")})

    def score(self, signals: Signals) -> Tensor:
        return signals.attention("last").mean(1)


SOUND = (Length, PerHead, Attended)


class OddGranularity(Length):
    """Its granularity is a word of its own."""

    @property
    def granularity(self) -> str:
        return "tokens"


class Squeezed(Length):
    """Loses the batch axis where there is one sample."""

    def score(self, signals: Signals) -> Tensor:
        scores = lengths(signals)
        return scores[0] if len(scores) == 1 and signals.vision == signals.layouts[0].vision else scores


class QueryHeads(PerHead):
    """Leaves query heads where KV heads belong."""

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("queries")})

    def score(self, signals: Signals) -> Tensor:
        return signals.queries().float().norm(dim=-1)


class Ranks(Length):
    """Returns places as integers."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals).argsort(dim=-1).argsort(dim=-1)


class OverTheOthers(Length):
    """Divides by the number of the other tokens, wherever there are some."""

    def score(self, signals: Signals) -> Tensor:
        others = torch.tensor(float(signals.vision - 1), device=signals.device)
        return lengths(signals) * others / others


class AsManyImages(Length):
    """Takes the samples of a batch to have as many images each."""

    def score(self, signals: Signals) -> Tensor:
        images = [len(layout.segments) for layout in signals.layouts]
        return lengths(signals)[:, : None if len(set(images)) == 1 else min(images)]


class ByImage(Length):
    """Takes every segment for an image of its own."""

    def score(self, signals: Signals) -> Tensor:
        sizes = {segment.image: len(segment) for segment in signals.segments(0)}
        whole = signals.vision == signals.layouts[0].vision
        return lengths(signals)[:, : sum(sizes.values()) if whole else None]


class OneFrame(Length):
    """Takes the first frame of a video for all of it."""

    def score(self, signals: Signals) -> Tensor:
        segment = signals.segments(0)[0]
        return lengths(signals)[:, : segment.grid[1] * segment.grid[2] if segment.kind == "video" else None]


class AsInThePrompt(Length):
    """Scores tokens that are gone, too."""

    def score(self, signals: Signals) -> Tensor:
        scores = lengths(signals)
        missing = signals.layouts[0].vision - signals.vision
        return torch.cat([scores, scores.new_zeros(len(scores), missing)], dim=-1)


class ByGrid(Length):
    """Reads the grid of the layout without asking for one."""

    def score(self, signals: Signals) -> Tensor:
        rows = max(segment.grid[1] for layout in signals.layouts for segment in layout.segments)
        return lengths(signals) * (rows / rows)


class ByDepth(Length):
    """Counts on a decoder layer."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) * (1 + signals.layer)


class Logarithm(Length):
    """The logarithm of numbers that may be negative."""

    def score(self, signals: Signals) -> Tensor:
        return signals.features().float()[..., 0].log()


class Standardised(Length):
    """Divides by a spread that may be 0."""

    def score(self, signals: Signals) -> Tensor:
        scores = lengths(signals)
        return (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, correction=0, keepdim=True)


class Directions(Length):
    """Divides by a length that may be 0."""

    def score(self, signals: Signals) -> Tensor:
        features = signals.features().double()
        return (features / features.norm(dim=-1, keepdim=True)).sum(-1).float()


class Exponentials(Length):
    """A softmax by hand, without the maximum."""

    def score(self, signals: Signals) -> Tensor:
        exponentials = lengths(signals).exp()
        return exponentials / exponentials.sum(-1, keepdim=True)


class Energies(Length):
    """Divides by a square that underflows."""

    def score(self, signals: Signals) -> Tensor:
        energies = signals.features().float().square().sum(-1)
        nothing = signals.features().abs().amax((1, 2)) == 0
        return energies / torch.where(nothing, 1.0, energies.sum(-1))[:, None]


class Entropy(Attended):
    """An entropy over the tokens, with 0 * log(0)."""

    def score(self, signals: Signals) -> Tensor:
        rows = signals.attention("last")
        return -(rows * rows.log()).mean(1)


class HalfSquares(Length):
    """Squares in half precision, which overflow."""

    def score(self, signals: Signals) -> Tensor:
        squares = signals.features().square().sum(-1)
        return squares / squares.sum(-1, keepdim=True).clamp(min=1e-6)


class HalfLengths(Length):
    """Lengths in half precision, which are rounded."""

    def score(self, signals: Signals) -> Tensor:
        return signals.features().norm(dim=-1)


class GradMode(Length):
    """Does something else where gradients are recorded."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) * (2.0 if torch.is_grad_enabled() else 1.0)


class EarlierFirst(Length):
    """Prefers earlier tokens, and does not say so."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) - torch.arange(signals.vision, device=signals.device)


class OverTheBatch(Length):
    """Takes a maximum over the batch."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) - lengths(signals).max()


class ByNumber(Length):
    """Adds a sample's number in the batch."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) + torch.arange(signals.batch, device=signals.device)[:, None]


class FromTheFirst(Length):
    """Counts the positions of a layout from its first one on, in place."""

    def score(self, signals: Signals) -> Tensor:
        for layout in signals.layouts:
            layout.positions.sub_(layout.positions[:1].clone())
        return lengths(signals)


class Seeding(Length):
    """Seeds torch's global generator."""

    def score(self, signals: Signals) -> Tensor:
        torch.manual_seed(0)
        return lengths(signals) + torch.rand(()).item()


class SeedingNumpy(Length):
    """Draws from numpy's global generator."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) + 0 * np.random.rand()


class SeedingPython(Length):
    """Draws from Python's global generator."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) + 0 * random.random()


class Undeclared(Length):
    """Reads seeds that it does not declare."""

    def score(self, signals: Signals) -> Tensor:
        return lengths(signals) + 0 * signals.sample_seeds()[:, None].to(signals.device)


class Unread(Length):
    """Declares text that it does not read."""

    def needs(self) -> frozenset[Need]:
        return super().needs() | {Need("text", "last")}


class FromItsSpan(Length):
    """How unlike the first image a token is, whose start and stop count the prompt's tokens, not the survivors."""

    def score(self, signals: Signals) -> Tensor:
        unit = torch.nn.functional.normalize(signals.features().float(), dim=-1)
        means = [unit[i, s[0].start : s[0].stop].mean(0) for i, s in enumerate(map(signals.segments, range(len(unit))))]
        return 1 - torch.einsum("bvd,bd->bv", unit, torch.stack(means))


class AllButTheLast(Length):
    """Ends one token too early: the last one has no score."""

    def score(self, signals: Signals) -> Tensor:
        return torch.nn.functional.pad(lengths(signals)[:, :-1], (0, 1))


BROKEN: dict[str, type[Scorer]] = {
    "granularity_is_known": OddGranularity,
    "scores_have_the_declared_shape": Squeezed,
    "scores_are_floats": Ranks,
    "scores_of_a_single_token": OverTheOthers,
    "scores_of_several_images": AsManyImages,
    "scores_of_crops": ByImage,
    "scores_of_videos": OneFrame,
    "scores_of_survivors": AsInThePrompt,
    "scores_without_a_grid": ByGrid,
    "scores_before_the_language_model": ByDepth,
    "ordinary_signals_give_no_nan": Logarithm,
    "constant_signals_give_no_nan": Standardised,
    "zero_signals_give_no_nan": Directions,
    "huge_signals_give_no_nan": Exponentials,
    "tiny_signals_give_no_nan": Energies,
    "one_hot_signals_give_no_nan": Entropy,
    "half_precision_gives_no_nan": HalfSquares,
    "half_precision_is_computed_in_float32": HalfLengths,
    "attached_signals_change_nothing": GradMode,
    "permuted_tokens_permute_scores": EarlierFirst,
    "samples_do_not_influence_each_other": OverTheBatch,
    "order_of_samples_does_not_matter": ByNumber,
    "global_generators_are_left_alone": Seeding,
    "layouts_are_not_changed": FromTheFirst,
    "reads_only_what_it_declares": Undeclared,
    "reads_all_that_it_declares": Unread,
}
ALSO: dict[str, set[str]] = {
    "scores_of_several_images": {
        "samples_do_not_influence_each_other",
        "scores_of_videos",
        "scores_without_a_grid",
    },
    "ordinary_signals_give_no_nan": {
        "half_precision_gives_no_nan",
        "huge_signals_give_no_nan",
        "tiny_signals_give_no_nan",
    },
    "constant_signals_give_no_nan": {
        "one_hot_signals_give_no_nan",
        "scores_of_a_single_token",
        "tiny_signals_give_no_nan",
        "zero_signals_give_no_nan",
    },
    "huge_signals_give_no_nan": {"half_precision_gives_no_nan"},
    "one_hot_signals_give_no_nan": {
        "half_precision_gives_no_nan",
        "huge_signals_give_no_nan",
        "zero_signals_give_no_nan",
    },
    "half_precision_gives_no_nan": {"half_precision_is_computed_in_float32"},
    "attached_signals_change_nothing": {"inference_mode_changes_nothing"},
    "order_of_samples_does_not_matter": {"samples_do_not_influence_each_other"},
}
