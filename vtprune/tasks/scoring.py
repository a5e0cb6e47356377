"""How an answer in words is compared with its references; every score is from 0 to 1."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from vtprune.core.task import exact, plain

Scoring = Literal["exact", "contains", "choice", "vqa"]
LETTERS: Final = string.ascii_uppercase
_ARTICLES: Final = frozenset({"a", "an", "the"})
_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS: Final = {word: str(number) for number, word in enumerate(_WORDS)}
_LETTER: Final = re.compile(r"\(?([A-Z])\)?(?:[.:)]|\s*$)")
_ANNOUNCED: Final = re.compile(r"\banswer(?: is)?:?\s*\(?([A-Za-z])\b", re.IGNORECASE)


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if a reference stands in the answer as whole words."""
    said = plain(answer)
    return float(any(re.search(rf"(?<!\w){re.escape(plain(one))}(?!\w)", said) for one in references))


def choice(answer: str, references: Sequence[str]) -> float:
    """1 if the answer names the right choice. references: its letter, then its text.

    The choice named is the text itself, or a capital letter in front (``B``, ``(B)``, ``B. a dog``; but not ``A dog``,
    which may be an article), or the letter after ``answer is``.
    """
    letter, text = references
    if plain(answer) in (plain(letter), plain(text)):
        return 1.0
    named = _LETTER.match(answer.strip()) or _ANNOUNCED.search(answer)
    return float(named is not None and named[1].upper() == letter)


def vqa(answer: str, references: Sequence[str]) -> float:
    """min(n / 3, 1) for n people of the references who gave this answer (Antol et al. 2015, arXiv:1505.00468).

    Compared without case, punctuation and articles, and with the numbers zero to ten as digits; the official script
    also spells out contractions and leaves one person out in turn.
    """
    said = _bare(answer)
    return min(sum(said == _bare(one) for one in references) / 3, 1.0)


def _bare(text: str) -> str:
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


SCORINGS: Final[Mapping[Scoring, Callable[[str, Sequence[str]], float]]] = {
    "exact": exact,
    "contains": contains,
    "choice": choice,
    "vqa": vqa,
}
