"""Selectors that break one promise each: what the checks of selectors have to find.

`BROKEN` names the check that has to fail; `ALSO` those that then cannot but fail too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtprune.core.component import Candidates, Selector
from vtprune.core.errors import ComponentError


def ranked(values: Tensor, given: Candidates) -> Tensor:
    """The protected tokens, then the highest values until each row's count is reached; done right."""
    values = values.double()
    values = torch.where(values == torch.inf, 1e300, torch.where(values == -torch.inf, -1e300, values))
    order = values.masked_fill(given.protected, torch.inf).argsort(dim=-1, descending=True, stable=True)
    place = torch.empty_like(order).scatter(-1, order, torch.arange(given.vision, device=order.device).expand_as(order))
    return place < given.counts.to(order.device)[:, None]


def scores_of(given: Candidates) -> Tensor:
    assert given.scores is not None
    return given.scores


def unlike_first(features: Tensor) -> Tensor:
    """``[row, vision]``: how unlike the first token each one is; 0 for a copy of it."""
    unit = normalize(features.float() * 1e20, dim=-1).nan_to_num(0.0)
    return (unit - unit[:, :1]).abs().sum(-1).mul(64).round()


class Ranked(Selector):
    """The highest scores, as they should be; what is broken below is derived from it."""

    def select(self, candidates: Candidates) -> Tensor:
        return ranked(scores_of(candidates), candidates)


class Diverse(Selector):
    """Tokens that are unlike the first one: reads features and no scores."""

    @property
    def uses_scores(self) -> bool:
        return False

    @property
    def feature_source(self) -> str:
        return "features"

    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.features is not None
        if not torch.isfinite(candidates.features).all():
            raise ComponentError("not finite")
        if not candidates.vision:
            return torch.zeros_like(candidates.protected)
        return ranked(unlike_first(candidates.features), candidates)


class Cut(Ranked):
    """Scores of at least a half of the row's highest, at most the counts: may keep fewer."""

    @property
    def count_is_exact(self) -> bool:
        return False

    @property
    def needs_count(self) -> bool:
        return False

    def passes(self, scores: Tensor) -> Tensor:
        finite = torch.where(scores.isfinite(), scores, 0.0)
        return (scores >= 0.5 * finite.amax(-1, keepdim=True)).sum(-1).clamp(min=1)

    def select(self, candidates: Candidates) -> Tensor:
        if not candidates.vision:
            return torch.zeros_like(candidates.protected)
        wanted = torch.maximum(self.passes(scores_of(candidates)), candidates.protected.sum(-1))
        counts = torch.minimum(wanted.cpu(), candidates.counts)
        return ranked(scores_of(candidates), replace(candidates, counts=counts))


# -- the mask, the counts ----------------------------------------------------------------------------------------------


class ReturnsIndices(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        return super().select(candidates).nonzero()


class RoundsDown(Ranked):
    """An odd count of more than one is rounded down to an even one."""

    def select(self, candidates: Candidates) -> Tensor:
        counts = candidates.counts
        even = torch.where(counts > 1, counts // 2 * 2, counts)
        return ranked(scores_of(candidates), replace(candidates, counts=even))


class IgnoresTheBound(Cut):
    def select(self, candidates: Candidates) -> Tensor:
        everything = torch.full_like(candidates.counts, candidates.vision).masked_fill(candidates.counts == 0, 0)
        return super().select(replace(candidates, counts=everything))


class KeepsNothing(Cut):
    """A fixed threshold, which the scores of a row may all fall short of."""

    @property
    def needs_count(self) -> bool:
        return True

    def passes(self, scores: Tensor) -> Tensor:
        return (scores >= 0.95).sum(-1)


class OneCountForAll(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        counts = torch.full_like(candidates.counts, int(candidates.counts.max()))
        return ranked(scores_of(candidates), replace(candidates, counts=counts))


class AlwaysOne(Ranked):
    """At least one token, also where none is granted in any row."""

    def select(self, candidates: Candidates) -> Tensor:
        counts = candidates.counts
        if candidates.vision > 1 and not counts.any():
            counts = counts.clamp(min=1)
        return ranked(scores_of(candidates), replace(candidates, counts=counts))


class NeverEverything(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        counts = candidates.counts
        if candidates.vision > 2 and bool((counts == candidates.vision).all()):
            counts = counts - 1
        return ranked(scores_of(candidates), replace(candidates, counts=counts))


class Squeezes(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        kept = super().select(candidates)
        return kept.squeeze(-1)


class LooksForTheBest(Ranked):
    """A maximum over no token."""

    def select(self, candidates: Candidates) -> Tensor:
        scores_of(candidates).max(-1)
        return super().select(candidates)


class NeedsNoCountButKeepsAll(Ranked):
    @property
    def needs_count(self) -> bool:
        return False


class IgnoresProtection(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        return ranked(scores_of(candidates), replace(candidates, protected=torch.zeros_like(candidates.protected)))


class AddsProtection(Ranked):
    """The protected tokens, and as many others as were granted in all."""

    def select(self, candidates: Candidates) -> Tensor:
        counts = (candidates.counts + candidates.protected.sum(-1).cpu()).clamp(max=candidates.vision)
        return ranked(scores_of(candidates), replace(candidates, counts=counts))


class ScalesByTheBatch(Ranked):
    """Scores in steps of a hundredth of the largest one of all rows."""

    def select(self, candidates: Candidates) -> Tensor:
        scores = scores_of(candidates)
        largest = scores[scores.isfinite()].max() if scores.isfinite().any() else scores.new_ones(())
        steps = (100 * scores / largest.abs().clamp(min=0.9)).round()
        return ranked(torch.where(scores.isfinite(), steps, scores), candidates)


class DrawsForTheBatch(Ranked):
    """Tokens that chance prefers by a little: a number for each row, drawn in the order of the rows."""

    def select(self, candidates: Candidates) -> Tensor:
        scores = scores_of(candidates)
        chance = torch.rand(len(scores), generator=torch.Generator().manual_seed(0)).to(scores.device)
        return ranked((scores * (3 + chance[:, None])).round(), candidates)


# -- scores and features -----------------------------------------------------------------------------------------------


class OrderOfNothing(Diverse):
    @property
    def rank_only(self) -> bool:
        return True


class AsksForFeatures(Ranked):
    @property
    def feature_source(self) -> str:
        return "features"


class ReadsScoresInSecret(Diverse):
    def select(self, candidates: Candidates) -> Tensor:
        if candidates.scores is None:
            return super().select(candidates)
        return ranked(candidates.scores, candidates)


class TiesToTheHigherIndex(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        turned = replace(candidates, protected=candidates.protected.flip(-1))
        return ranked(scores_of(candidates).flip(-1), turned).flip(-1)


class LaterCopies(Ranked):
    """Ties of scores that are not all the same go to the higher index."""

    def select(self, candidates: Candidates) -> Tensor:
        scores = scores_of(candidates)
        if candidates.vision and bool((scores == scores[:, :1]).all()):
            return super().select(candidates)
        turned = replace(candidates, protected=candidates.protected.flip(-1))
        return ranked(scores.flip(-1), turned).flip(-1)


class LowestFirst(Ranked):
    def select(self, candidates: Candidates) -> Tensor:
        scores = scores_of(candidates)
        return ranked(torch.where(scores.isfinite(), -scores, scores), candidates)


class ClampsInfinities(Ranked):
    """Infinite scores become ordinary ones."""

    def select(self, candidates: Candidates) -> Tensor:
        return ranked(scores_of(candidates).clamp(0.2, 0.8), candidates)


class DividesByTheSpread(Ranked):
    """Tokens whose scaled score is no number are never taken."""

    def select(self, candidates: Candidates) -> Tensor:
        scores = scores_of(candidates)
        finite = scores.masked_fill(~scores.isfinite(), 0.5)
        kept = super().select(candidates)
        if candidates.vision < 2 or candidates.protected.any():
            return kept
        spread = finite.amax(-1, keepdim=True) - finite.amin(-1, keepdim=True)
        return kept & ((finite - finite.amin(-1, keepdim=True)) / spread >= 0)


class SaysThatOrderDecides(Cut):
    @property
    def rank_only(self) -> bool:
        return True


class DividesByNorms(Diverse):
    """Tokens whose similarity is no number are never taken."""

    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.features is not None
        kept = super().select(candidates)
        if candidates.protected.sum() != 1:
            return kept
        unit = candidates.features / candidates.features.norm(dim=-1, keepdim=True)
        return kept & ((unit * unit).sum(-1) > 0.5)


class ComparesInHalf(Diverse):
    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.features is not None
        kept = super().select(candidates)
        if candidates.features.dtype == torch.float32:
            return kept
        distance = (candidates.features - candidates.features[:, :1]).square().sum(-1)
        return ranked(distance, candidates)


class BelievesInNumbers(Diverse):
    """Comparisons with NaN are all False."""

    def select(self, candidates: Candidates) -> Tensor:
        assert candidates.features is not None
        if torch.isfinite(candidates.features).all():
            return super().select(candidates)
        plain = super().select(replace(candidates, features=torch.zeros_like(candidates.features)))
        return plain & (candidates.features.sum((1, 2)) < torch.inf)[:, None]


BROKEN: dict[str, type[Selector]] = {
    "selection_is_a_mask": ReturnsIndices,
    "counts_are_exact": RoundsDown,
    "counts_are_never_exceeded": IgnoresTheBound,
    "something_is_kept": KeepsNothing,
    "each_row_has_its_own_count": OneCountForAll,
    "count_of_zero_keeps_nothing": AlwaysOne,
    "count_of_all_keeps_everything": NeverEverything,
    "one_token_can_be_chosen_from": Squeezes,
    "no_token_can_be_chosen_from": LooksForTheBest,
    "a_budget_is_not_needed": NeedsNoCountButKeepsAll,
    "protected_tokens_are_kept": IgnoresProtection,
    "protected_tokens_are_part_of_the_count": AddsProtection,
    "rows_do_not_depend_on_each_other": ScalesByTheBatch,
    "order_of_rows_is_irrelevant": DrawsForTheBatch,
    "declarations_fit_together": OrderOfNothing,
    "what_is_not_declared_is_not_read": ReadsScoresInSecret,
    "declared_inputs_matter": AsksForFeatures,
    "ties_go_to_the_lower_index": TiesToTheHigherIndex,
    "of_duplicates_the_first_is_kept": LaterCopies,
    "higher_scores_are_kept": LowestFirst,
    "infinite_scores_mean_always_and_never": ClampsInfinities,
    "scores_without_an_order_keep_the_counts": DividesByTheSpread,
    "order_of_scores_decides_alone": SaysThatOrderDecides,
    "degenerate_features_keep_the_counts": DividesByNorms,
    "half_precision_features_are_compared_in_float32": ComparesInHalf,
    "features_that_are_not_finite_do_no_harm": BelievesInNumbers,
}
UNUSABLE = {"selection_is_a_mask"}
"""Checks whose broken component is of no use to any other check that looks at its results."""
ALSO: dict[str, set[str]] = {
    "counts_are_exact": {
        "each_row_has_its_own_count",
        "count_of_all_keeps_everything",
        "protected_tokens_are_kept",
        "protected_tokens_are_part_of_the_count",
        "scores_without_an_order_keep_the_counts",
    },
    "counts_are_never_exceeded": {
        "protected_tokens_are_part_of_the_count",
        "scores_without_an_order_keep_the_counts",
    },
    "something_is_kept": {"one_token_can_be_chosen_from"},
    "each_row_has_its_own_count": {
        "rows_do_not_depend_on_each_other",
        "one_token_can_be_chosen_from",
        "scores_without_an_order_keep_the_counts",
    },
    "order_of_rows_is_irrelevant": {"rows_do_not_depend_on_each_other"},
    "ties_go_to_the_lower_index": {"of_duplicates_the_first_is_kept"},
}


class AllButTheLast(Ranked):
    """Does not read the last score: that token counts as a little worse than the one before."""

    def select(self, candidates: Candidates) -> Tensor:
        scores = scores_of(candidates).clone()
        if candidates.vision > 1:
            scores[:, -1] = scores[:, -2]
        return ranked(scores, candidates)


SOUND = (Ranked, Diverse, Cut)
