"""Checks of selectors: the mask, the counts, protected tokens and the independence of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtprune.core.component import Candidates, Selector
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs.candidates import candidates, declared, noise, ordinary, row

FALLEN_SHORT = "a greedy loop that stopped early, or a ratio that was rounded down"


def select(selector: Selector, given: Candidates) -> Tensor:
    """What the selector keeps of candidates that hold nothing it does not declare; fails if that is no mask."""
    return masked(selector.select(declared(selector, given)), given)


def masked(kept: Any, given: Candidates) -> Tensor:
    """``kept``, if it is bool ``[row, vision]``; else fails."""
    if not isinstance(kept, Tensor):
        fail(f"select returned a {type(kept).__name__}, expected a bool tensor [row, vision]")
    if kept.dtype != torch.bool or kept.shape != given.protected.shape:
        fail(
            f"select returned {kept.dtype} of shape {list(kept.shape)}, expected torch.bool [row, vision] = "
            f"{list(given.protected.shape)}",
            cause="indices were returned, or an axis was squeezed; indices make a mask by "
            "torch.zeros_like(candidates.protected).scatter(-1, indices, True)",
        )
    return kept


def exact(selector: Selector) -> str | None:
    """None for a selector that keeps exactly the counts, else why a check does not apply."""
    return None if selector.count_is_exact else "count_is_exact is False: it may keep fewer than the counts"


def inexact(selector: Selector) -> str | None:
    """None for a selector that may keep fewer than the counts, else why a check does not apply."""
    return "count_is_exact is True" if selector.count_is_exact else None


def wrong_count(selector: Selector, kept: Tensor, counts: Tensor) -> str | None:
    """The first row that keeps another number of tokens than it should, in words, or None."""
    realised = kept.sum(-1).cpu()
    wrong = realised != counts if selector.count_is_exact else realised > counts
    if not bool(wrong.any()):
        return None
    first = int(wrong.int().argmax())
    most = "" if selector.count_is_exact else "at most "
    return f"row {first} keeps {int(realised[first])} of {kept.shape[-1]} tokens, expected {most}{int(counts[first])}"


@check("selector")
def check_selection_is_a_mask(selector: Selector) -> None:
    """A selector returns a boolean mask, ``[row, vision]``."""
    select(selector, ordinary([5, 3, 9], vision=11))


@check("selector", applies=exact)
def check_counts_are_exact(selector: Selector) -> None:
    """Exactly as many tokens are kept as were allocated, whatever their number."""
    for vision in (2, 10, 33):
        for count in {1, 2, 3, vision // 3, vision // 2, vision - 1} & set(range(1, vision + 1)):
            given = ordinary([count] * 2, vision)
            if found := wrong_count(selector, select(selector, given), given.counts):
                fail(found, cause=FALLEN_SHORT)


@check("selector", applies=inexact)
def check_counts_are_never_exceeded(selector: Selector) -> None:
    """A selector that finds its own count keeps no more tokens than were allocated."""
    for count in (1, 2, 5, 9):
        given = ordinary([count] * 3, vision=10)
        if found := wrong_count(selector, select(selector, given), given.counts):
            fail(found, cause="the counts were ignored; they are an upper bound where a stage has a budget")


@check("selector", applies=inexact)
def check_something_is_kept(selector: Selector) -> None:
    """A selector that finds its own count keeps at least one token of ordinary candidates, if it may."""
    for count in (1, 4, 12):
        given = ordinary([count] * 3, vision=12)
        if not bool((kept := select(selector, given)).any(-1).all()):
            lost = int((~kept.any(-1)).int().argmax())
            fail(
                f"row {lost} keeps no token although {count} were granted",
                cause="a threshold that no score reached, or rounding down to 0; keep at least one",
            )


@check("selector", applies=exact)
def check_each_row_has_its_own_count(selector: Selector) -> None:
    """Rows of one call keep different numbers of tokens if they are told to, also none and all."""
    given = ordinary([5, 1, 12, 0, 7], vision=12)
    if found := wrong_count(selector, select(selector, given), given.counts):
        fail(found, cause="one row's count (or the largest) was used for all rows; counts is [row]")


@check("selector")
def check_count_of_zero_keeps_nothing(selector: Selector) -> None:
    """Where 0 tokens are granted, none is kept."""
    given = ordinary([0, 0], vision=9)
    if bool((kept := select(selector, given)).any()):
        fail(
            f"{int(kept[0].sum())} tokens are kept where 0 were granted",
            cause="max(1, count), or a first pick made before the count is looked at",
        )


@check("selector", applies=exact)
def check_count_of_all_keeps_everything(selector: Selector) -> None:
    """Where all tokens are granted, all are kept."""
    for vision in (2, 5, 13):
        kept = select(selector, ordinary([vision] * 2, vision))
        if not bool(kept.all()):
            fail(f"{int(kept[0].sum())} of {vision} tokens are kept where all were granted", cause=FALLEN_SHORT)


@check("selector")
def check_one_token_can_be_chosen_from(selector: Selector) -> None:
    """A single vision token can be kept or dropped."""
    given = ordinary([1, 0], vision=1)
    kept = select(selector, given)
    if kept.tolist() != [[True], [False]]:
        fail(
            f"of one token each, counts [1, 0], the rows keep {kept.sum(-1).tolist()}",
            cause="a statistic over one token (a spread, a distance to others) is not defined",
        )


@check("selector")
def check_no_token_can_be_chosen_from(selector: Selector) -> None:
    """Rows without vision tokens give an empty mask: an image may have lost all its tokens at an earlier stage."""
    given = candidates([0, 0], *noise(2, 0))
    try:
        kept = selector.select(declared(selector, given))
    except Exception as error:
        fail(
            f"without vision tokens it raises {type(error).__name__}: {error}",
            cause="a maximum over no token; begin with: if not candidates.vision, return candidates.protected.clone()",
        )
    masked(kept, given)


@check("selector", applies=lambda selector: "needs_count is True" if selector.needs_count else None)
def check_a_budget_is_not_needed(selector: Selector) -> None:
    """A selector with ``needs_count`` False finds its count itself: without a budget all tokens are granted."""
    given = ordinary([12, 12, 12], vision=12)
    kept = select(selector, given)
    if selector.count_is_exact:
        fail(
            "needs_count is False and count_is_exact True: without a budget it keeps every token, which prunes nothing",
            cause="count_is_exact has to be False where the selector finds its own count",
        )
    if not bool(kept.any(-1).all()):
        fail(f"the rows keep {kept.sum(-1).tolist()} of 12 tokens without a budget; expected at least one each")


@check("selector")
def check_protected_tokens_are_kept(selector: Selector) -> None:
    """Protected tokens are kept, whatever their scores and features are, and those of the others."""
    for count in (3, 4, 8):
        for kind, given in _protecting(count):
            kept = select(selector, given)
            if bool((given.protected & ~kept).any()):
                at = (given.protected & ~kept).nonzero()[0].tolist()
                fail(
                    f"the protected token {at[1]} is dropped ({kind}, count {count})",
                    cause="`protected` is not looked at, or a score of +inf elsewhere outranks it; put protected "
                    "tokens first, whatever the scores are",
                )


@check("selector")
def check_protected_tokens_are_part_of_the_count(selector: Selector) -> None:
    """Protected tokens count: where some are protected, no more tokens are kept than were granted."""
    for count in (3, 4, 8):
        for kind, given in _protecting(count):
            if found := wrong_count(selector, select(selector, given), given.counts):
                fail(
                    f"{found}, with 3 of them protected ({kind})",
                    cause="protected tokens were added to the count, which includes them",
                )


def _protecting(count: int) -> list[tuple[str, Candidates]]:
    """The tokens 1, 6 and 9 are protected, and every score says that they should go."""
    plain = ordinary([count] * 2, vision=10, protect=[1, 6, 9])
    assert plain.scores is not None
    scores = {
        "low scores": plain.scores.masked_fill(plain.protected, 0.0),
        "equal scores": torch.full_like(plain.scores, 0.5),
        "scores of -inf": plain.scores.masked_fill(plain.protected, -torch.inf),
        "+inf everywhere else": torch.full_like(plain.scores, torch.inf).masked_fill(plain.protected, 0.0),
        "-inf everywhere": torch.full_like(plain.scores, -torch.inf),
    }
    cases = [(kind, candidates([count] * 2, value, plain.features, plain.protected)) for kind, value in scores.items()]
    constant = torch.ones(2, 10, 6)
    return [*cases, ("equal features", candidates([count] * 2, scores["low scores"], constant, plain.protected))]


@check("selector")
def check_rows_do_not_depend_on_each_other(selector: Selector) -> None:
    """A row alone keeps what it keeps in company: rows are samples, images or heads that have nothing in common."""
    scores, features = noise(4, 40, 33)
    features[1] = features[1, :1]
    features[2, 20:] = features[2, :20]
    features[3] *= 1e3
    scores[1] = (scores[1] * 4).floor() / 4
    scores[2] *= 100
    together = candidates([5, 18, 30, 12], scores, features)
    kept = select(selector, together)
    for index in range(4):
        alone = select(selector, row(together, [index]))[0]
        if not torch.equal(alone, kept[index]):
            fail(
                f"row {index} of 4 keeps other tokens alone than in company: they differ in "
                f"{int((alone != kept[index]).sum())} of 40",
                cause="a mean, a minimum, a sum or a random number over all rows; reduce over the vision axis (-1 of "
                "scores, -2 of features) only",
            )


@check("selector")
def check_order_of_rows_is_irrelevant(selector: Selector) -> None:
    """Rows in another order keep the same tokens."""
    order = [2, 0, 3, 1]
    given = ordinary([5, 3, 9, 7], vision=20)
    kept, turned = select(selector, given), select(selector, row(given, order))
    if not torch.equal(kept[order], turned):
        wrong = (kept[order] != turned).any(-1).nonzero().flatten().tolist()
        fail(
            f"after reordering the rows as {order}, the rows {[order[index] for index in wrong]} keep other tokens",
            cause="something depends on the place of a row in the batch, such as a generator shared by the rows or row "
            "0 as a reference",
        )
