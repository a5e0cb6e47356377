"""Checks of selectors: scores, ties, infinities, features of every kind and precision, and what is read of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vtprune.core.component import Candidates, Selector
from vtprune.core.errors import VtpruneError
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.selectors import masked, select, wrong_count
from vtprune.testing.inputs.candidates import FEATURES, candidates, hard_features, noise, ordinary

SOURCES = (None, "features", "keys", "values")
HALF = (torch.bfloat16, torch.float16)


def scored(selector: Selector) -> str | None:
    """None for a selector that uses scores, else why a check does not apply."""
    return None if selector.uses_scores else "uses_scores is False"


def comparing(selector: Selector) -> str | None:
    """None for a selector that reads features, else why a check does not apply."""
    return None if selector.feature_source else "feature_source is None"


def judging(selector: Selector) -> str | None:
    """None for a selector that reads scores or features, else why a check does not apply."""
    return None if selector.uses_scores or selector.feature_source else "it reads neither scores nor features"


def orthogonal(rows: int, vision: int) -> torch.Tensor:
    """float32 ``[row, vision, vision]``: features by which every token is as unlike every other."""
    return torch.eye(vision).expand(rows, vision, vision).clone()


@check("selector")
def check_declarations_fit_together(selector: Selector) -> None:
    """What a selector declares is of the declared type, and says nothing about what it does not use."""
    for name in ("uses_scores", "count_is_exact", "needs_count", "rank_only"):
        if not isinstance(value := getattr(selector, name), bool):
            fail(f"{name} is {value!r}, expected True or False", cause="a method where a property is due (@property)")
    if selector.feature_source not in SOURCES:
        fail(f"feature_source is {selector.feature_source!r}, expected one of {', '.join(map(repr, SOURCES))}")
    if selector.rank_only and not selector.uses_scores:
        fail(
            "rank_only is True but uses_scores is False: the order of scores cannot decide if no score is read",
            cause="rank_only speaks of scores; leave it at False",
        )


@check("selector")
def check_what_is_not_declared_is_not_read(selector: Selector) -> None:
    """The choice is the same whether or not scores and features are there that the selector does not declare."""
    full = ordinary([5, 4], vision=10)
    try:
        without = select(selector, full)
    except (TypeError, AttributeError, VtpruneError) as error:
        missing = [name for name, used in (("scores", selector.uses_scores), ("features", selector.feature_source))]
        absent = [name for name in missing if getattr(_bare(selector, full), name) is None]
        if not absent:
            raise
        fail(
            f"without {' and '.join(absent)}, which it does not declare, it raises {type(error).__name__}: {error}",
            cause="uses_scores or feature_source says that they are not needed; declare what is read",
        )
    if not torch.equal(without, masked(selector.select(full), full)):
        fail(
            "scores or features that it does not declare change the choice",
            cause="uses_scores is False or feature_source None, but Candidates.scores or .features is read if present",
        )


def _bare(selector: Selector, full: Candidates) -> Candidates:
    return replace(
        full,
        scores=full.scores if selector.uses_scores else None,
        features=full.features if selector.feature_source else None,
    )


@check("selector", applies=judging)
def check_declared_inputs_matter(selector: Selector) -> None:
    """Scores and features that a selector declares change its choice; to provide them costs a scorer or a capture."""

    def kept(**changed: Any) -> torch.Tensor:
        return select(selector, replace(ordinary([10, 25], vision=40, dim=48), **changed))

    scores, features = noise(2, 40, 48, seed=1)
    if selector.uses_scores and torch.equal(kept(), kept(scores=scores)):
        fail("other scores make no difference, but uses_scores is True", cause="scores are not read; declare False")
    others = [features, *(hard_features(kind, 2, 40, 48) for kind in ("duplicates", "near duplicates", "rank one"))]
    if selector.feature_source and all(torch.equal(kept(), kept(features=other)) for other in others):
        fail(
            f"other features make no difference, but feature_source is {selector.feature_source!r}",
            cause="features are not read, or a parameter makes them irrelevant; declare None",
        )


@check("selector", applies=judging)
def check_ties_go_to_the_lower_index(selector: Selector) -> None:
    """Of tokens that are alike in score and features the first ones are kept."""
    for vision, dim in ((9, 7), (50, 64)):
        _, features = noise(1, 1, dim)
        given = candidates(vision // 3, torch.full((2, vision), 0.5), features.expand(2, vision, dim).clone())
        kept = select(selector, given)
        for index in range(len(kept)):
            count = int(kept[index].sum())
            if not bool(kept[index, :count].all()):
                first = int((~kept[index]).int().argmax())
                last = int(kept[index].nonzero()[-1])
                fail(
                    f"of {vision} equal tokens it keeps {last} but not {first}",
                    cause="topk, or a sort that is not stable; use argsort(descending=True, stable=True), or argmax, "
                    "which takes the first",
                )


@check("selector", applies=judging)
def check_of_duplicates_the_first_is_kept(selector: Selector) -> None:
    """A token goes before its later copies: a copy is kept only together with all earlier ones."""
    scores, features = noise(2, 20, 65)
    given = candidates([13, 27], scores.repeat(1, 3), features.repeat(1, 3, 1))
    kept = select(selector, given).view(2, 3, 20)
    out_of_order = kept[:, 1:] & ~kept[:, :-1]
    if bool(out_of_order.any()):
        at, copy, token = out_of_order.nonzero()[0].tolist()
        fail(
            f"row {at} keeps token {token + 20 * (copy + 1)} but not its earlier copy {token + 20 * copy}",
            cause="ties that rounding decides (gains of copies differ in the last bit), or a sort that is not stable; "
            "if places take part on purpose (windows, runs), declare this check in expected_failures",
        )


@check("selector", applies=scored)
def check_higher_scores_are_kept(selector: Selector) -> None:
    """Higher means keep: no token is dropped because its score was raised above all others."""
    vision = 12
    scores, _ = noise(1, vision, seed=3)
    raised = scores.expand(vision, vision).clone()
    raised.fill_diagonal_(1.0)
    for count in (3, 6):
        before = select(selector, candidates(count, scores, orthogonal(1, vision)))[0]
        after = select(selector, candidates(count, raised, orthogonal(vision, vision))).diagonal()
        if bool((lost := before & ~after).any()):
            token = int(lost.int().argmax())
            fail(
                f"token {token} is kept with a score of {float(scores[0, token]):.3f} and dropped with 1, the highest",
                cause="lower scores are preferred: descending=True is missing, or a sign is wrong",
            )


@check("selector", applies=scored)
def check_infinite_scores_mean_always_and_never(selector: Selector) -> None:
    """Tokens with a score of +inf are kept before all others, those of -inf after all others.

    A selector that may keep fewer than the counts may drop one of +inf, but then nothing else is kept.
    """
    for always, never in (([5, 9], [0, 3]), ([0, 11], [4, 10]), ([6, 7], [1, 11])):
        scores, features = noise(1, 12)
        features[0, always[0]] = features[0, always[1]]
        scores[0, always], scores[0, never] = torch.inf, -torch.inf
        for count in (2, 6, 10, 12):
            kept = select(selector, candidates(count, scores, features))[0]
            only = bool(kept.any()) and int(kept.sum()) == int(kept[always].sum())
            if not bool(kept[always].all()) and (selector.count_is_exact or not only):
                fail(
                    f"a token with a score of +inf is dropped ({always} of 12 have it, count {count})",
                    cause="scores were rescaled or clamped before their infinities were looked at, or the score of the "
                    "first or last token is not read",
                )
            if count <= 10 and bool(kept[never].any()):
                fail(
                    f"a token with a score of -inf is kept while 10 others are there for a count of {count} ({never} "
                    "have it)",
                    cause="scores were rescaled or clamped before their infinities were looked at",
                )


@check("selector", applies=scored)
def check_scores_without_an_order_keep_the_counts(selector: Selector) -> None:
    """Scores that are all equal, all infinite or barely above 0 change nothing about the counts."""
    _, features = noise(2, 10)
    for value in (0.0, 1.0, torch.inf, -torch.inf, 1e-42):
        given = candidates([4, 7], torch.full((2, 10), value), features)
        if found := wrong_count(selector, select(selector, given), given.counts):
            fail(
                f"{found} (every score is {value:g})",
                cause="0 / 0 or inf - inf while scores are rescaled: the spread of equal scores is 0",
            )


@check("selector", applies=lambda selector: None if selector.rank_only else "rank_only is False")
def check_order_of_scores_decides_alone(selector: Selector) -> None:
    """A selector with ``rank_only`` True makes the same choice after any strictly increasing map of the scores."""
    generator = torch.Generator().manual_seed(5)
    scores = torch.stack([torch.randperm(16, generator=generator) for _ in range(3)]).float() / 16
    _, features = noise(3, 16)
    kept = select(selector, candidates([4, 9, 1], scores, features))
    for name, mapped in {"3x - 7": 3 * scores - 7, "x^3": scores**3, "exp(9x)": (9 * scores).exp()}.items():
        if not torch.equal(kept, select(selector, candidates([4, 9, 1], mapped, features))):
            fail(
                f"scores mapped by x -> {name}, which keeps their order, give another choice",
                cause="values of scores matter (a threshold, a share, a weight), so rank_only must be False",
            )


@check("selector", applies=comparing)
def check_degenerate_features_keep_the_counts(selector: Selector) -> None:
    """Constant, copied, zero, rank-one, huge and tiny features change nothing about counts and protection."""
    scores, _ = noise(2, 14)
    protected = torch.zeros(2, 14, dtype=torch.bool)
    protected[0, 4] = True
    for kind in FEATURES:
        for dim in (1, 5):
            given = candidates([9, 6], scores, hard_features(kind, 2, 14, dim), protected)
            kept = select(selector, given)
            if found := wrong_count(selector, kept, given.counts):
                fail(
                    f"{found} ({kind} features)",
                    cause="a division by a norm or spread of 0, or a comparison with NaN; guard the denominator, and "
                    "fill up to the count",
                )
            if bool((protected & ~kept).any()):
                fail(f"the protected token 4 is dropped ({kind} features)", cause="a comparison with NaN")


@check("selector", applies=comparing)
def check_half_precision_features_are_compared_in_float32(selector: Selector) -> None:
    """Features in bfloat16 or float16, as models have them, are compared as the same numbers in float32 are."""
    scores, features = noise(2, 40, 16)
    for dtype in HALF:
        half = features.to(dtype)
        kept = select(selector, candidates([15, 4], scores, half))
        full = select(selector, candidates([15, 4], scores, half.float()))
        if not torch.equal(kept, full):
            fail(
                f"features in {dtype} and the same numbers in float32 give choices that differ in "
                f"{int((kept != full).sum())} of 80 tokens",
                cause="similarities were computed in half precision, which rounds them to 3 digits; begin with "
                "candidates.features.float()",
            )


@check("selector", applies=comparing)
def check_features_that_are_not_finite_do_no_harm(selector: Selector) -> None:
    """A feature of NaN or infinity is refused with an error of vtprune, or leaves counts and protection intact."""
    for bad in (torch.nan, torch.inf):
        given = ordinary([5, 3], vision=10, protect=[7])
        assert given.features is not None
        given.features[0, 4, 2] = bad
        try:
            kept = select(selector, given)
        except VtpruneError:
            continue
        except Exception as error:
            fail(
                f"a feature of {bad} raises {type(error).__name__}: {error}",
                cause="an index or a shape that follows from a comparison with NaN; raise ComponentError instead",
            )
        if found := wrong_count(selector, kept, given.counts):
            fail(f"{found}, after a feature of {bad}", cause="comparisons with NaN are False; raise ComponentError")
        if bool((given.protected & ~kept).any()):
            fail(f"the protected token 7 is dropped after a feature of {bad}", cause="a comparison with NaN")
