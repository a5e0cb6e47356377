"""Every error vtprune raises on purpose.

A message states what was seen, what was expected, the likely cause, and the nearest valid name where one exists.
Errors that can come in numbers (a recipe with three mistakes) carry all of them, so that one run shows everything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MANY = 40
"""Names that are listed in full, whatever is near."""


class VtpruneError(Exception):
    """Base class: ``except vtprune.VtpruneError`` catches every deliberate error of the library."""


class UnknownNameError(VtpruneError):
    """A component, recipe or adapter name that nothing has registered."""


class RecipeError(VtpruneError):
    """A recipe that cannot be used; ``problems`` lists every fault found, one sentence each."""

    def __init__(self, problems: Sequence[str], source: str = "recipe") -> None:
        self.problems = tuple(problems)
        super().__init__(bulleted(f"{source} is not valid", self.problems))


class BindingError(VtpruneError):
    """A valid recipe that does not fit this model; ``problems`` lists every mismatch."""

    def __init__(self, problems: Sequence[str], recipe: str, model: str) -> None:
        self.problems = tuple(problems)
        super().__init__(bulleted(f"recipe {recipe!r} cannot be bound to {model}", self.problems))


class BudgetError(VtpruneError):
    """A budget that no allocation can meet."""


class LoadError(VtpruneError):
    """A model, device or picture that cannot be loaded."""


class UnsupportedModelError(VtpruneError):
    """No adapter knows this model family."""


class UnsupportedModeError(VtpruneError):
    """The model is used in a way that cannot be pruned exactly (static cache, chunked prefill, ...)."""


class NoVisionTokensError(VtpruneError):
    """The prompt holds no vision token, so there is nothing to prune."""


class ComponentError(VtpruneError):
    """A component broke its contract: wrong shape, NaN scores, a wrong number of kept tokens."""


class ReportError(VtpruneError, ValueError):
    """A question the report cannot answer: a stage, sample, layer or head that does not exist or has not acted."""


class PluginError(VtpruneError):
    """An installed plugin could not be loaded, or two plugins claim one name."""


class PluginWarning(UserWarning):
    """A plugin does not do what its user may expect: it cannot be loaded, or something else stays in force."""


def bulleted(title: str, items: Iterable[str]) -> str:
    """Join ``items`` under ``title``, one dash each."""
    items = list(items)
    count = f" ({len(items)} problems)" if len(items) > 1 else ""
    return "\n".join([f"{title}{count}:", *(f"  - {item}" for item in items)])


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, for a message or a log of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A closing clause for an unknown-name message: the nearest names, then all of them.

    Where there are near ones and more than 40 in all, the rest are left out: they would bury the answer.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if near and len(known) > MANY:
        return hint
    listing = ", ".join(known) if known else "none"
    return f"{hint} Known: {listing}."
