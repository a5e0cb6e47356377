"""The outcome of a cell, and the sentence that goes with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from vtprune.core.errors import (
    BindingError,
    BudgetError,
    NoVisionTokensError,
    UnsupportedModeError,
    UnsupportedModelError,
)

Status = Literal["pass", "refused", "upstream", "absent", "fail"]
STATUSES: tuple[Status, ...] = get_args(Status)
LONGEST = 400
REFUSALS = (BindingError, BudgetError, NoVisionTokensError, UnsupportedModelError, UnsupportedModeError)
"""Errors by which vtprune declines. Its other errors say that something is broken."""


@dataclass(frozen=True)
class Outcome:
    """What a cell came to.

    status: ``pass``; ``refused`` (vtprune's own error, before any wrong output); ``upstream`` (transformers' own,
        unhooked model does not work in this mode); ``absent`` (the family has nothing to try it on); ``fail``.
    reason: of everything but a pass.
    """

    status: Status
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status

    @classmethod
    def parse(cls, text: str) -> Outcome:
        """Read ``str(outcome)`` back; raises ValueError for anything else."""
        status, _, reason = text.partition(": ")
        if status not in STATUSES or (status == "pass") != (not reason):
            raise ValueError(f"{text!r} is no outcome; expected 'pass', or one of {STATUSES[1:]} with ': reason'")
        return cls(status, reason)


class Upstream(Exception):
    """The unhooked model fails in this mode; the message is its own."""


def sentence(error: BaseException, named: bool) -> str:
    """An error in one line, the same in every process; ``named``: with the class of the error in front."""
    text = "; ".join(error.problems) if isinstance(error, BindingError) else str(error)
    text = re.sub(r"0x[0-9a-f]+", "0x", " ".join(text.split())).strip()
    text = f"{type(error).__name__}: {text}" if named else text
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def let_refusals_through(call: Callable[[], object]) -> None:
    """Raise what vtprune declines with, and nothing else: the unhooked model has failed already."""
    try:
        call()
    except REFUSALS:
        raise
    except Exception:
        return
