"""Tasks: what a study asks a model, and how an answer is judged.

A task is a component like the others: a frozen pydantic model whose fields are its parameters, registered by name. It
yields samples in a fixed order and scores answers; it sees no model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from vtprune.core.component import Component


@dataclass(frozen=True)
class Video:
    """frames: in order, all of one size; fps: frames per second of the clip as given here."""

    frames: tuple[Image.Image, ...]
    fps: float = 2.0


Part = str | Image.Image | Video


@dataclass(frozen=True)
class Region:
    """Part of a visual that an answer needs; known for made-up data, seldom for other.

    visual: which image or video of the sample's content, counted from 0. box: left, top, right, bottom as shares of
    its width and height. frame: of a video, or None for all.
    """

    visual: int
    box: tuple[float, float, float, float]
    frame: int | None = None


@dataclass(frozen=True)
class Sample:
    """One question.

    id: unique in its task and stable. content: the user's turn, text and visuals in the order in which they are shown.
    references: correct answers, at least one. type: what it asks for; results are broken down by it. regions: where
    the answer can be seen, if known (an oracle reads it). group: samples that share an image name the same group, so
    that statistics can take them together; empty for a sample on its own.
    """

    id: str
    content: tuple[Part, ...]
    references: tuple[str, ...]
    type: str = "all"
    regions: tuple[Region, ...] = ()
    group: str = ""

    @property
    def visuals(self) -> tuple[Image.Image | Video, ...]:
        """The images and videos of the content, in order."""
        return tuple(part for part in self.content if not isinstance(part, str))

    @property
    def text(self) -> str:
        """The text of the content, parts apart by a space."""
        return " ".join(part for part in self.content if isinstance(part, str))


class Task(Component):
    """Samples and their scoring.

    max_new_tokens: tokens an answer may have at most.

    ``revision`` rises when the samples, their order or the scoring change: results name it.
    """

    kind: ClassVar[str] = "task"
    max_new_tokens: int = 16

    @abstractmethod
    def samples(self) -> Iterable[Sample]:
        """Every sample, in a fixed order; the first N are those of a study with ``limit: N``. May be lazy."""

    def score(self, sample: Sample, answer: str) -> float:
        """How good an answer is, 0 to 1. Here: 1 if it equals a reference, but for case, runs of spaces and a closing
        full stop, else 0."""
        return exact(answer, sample.references)

    def fingerprint(self) -> str:
        """What the samples depend on beside the parameters (a file's hash, a data set's version); part of a result's
        identity."""
        return ""

    def has_regions(self, limit: int | None = None) -> bool | None:
        """Whether any of the first ``limit`` samples (None: of all) has regions; None if that is not known without
        looking at them. Answer it where the samples are many and looking at each is slow."""
        return None

    def sample_count(self) -> int | None:
        """How many samples there are; None if that is not known without looking at them. A plan shows it."""
        return None

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Named groups of sample types worth a column of their own; a group's score is the mean of its types'."""
        return {}


def exact(answer: str, references: Iterable[str]) -> float:
    """1 if the answer equals a reference, but for case, runs of spaces and a closing full stop, else 0."""
    return float(plain(answer) in map(plain, references))


def plain(text: str) -> str:
    """Lower case, single spaces, no closing full stop."""
    return " ".join(text.lower().split()).removesuffix(".").strip()
