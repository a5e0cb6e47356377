"""Tasks that break one promise each: what the checks of tasks have to find.

`BROKEN` names the check that has to fail; `ALSO` those that then cannot but fail too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import ClassVar

from PIL import Image

from vtprune.core.task import Region, Sample, Task, Video

COLORS = ("red", "green", "blue", "white")


def sample(number: int) -> Sample:
    """What colour is a plain picture?"""
    color = COLORS[number]
    picture = Image.new("RGB", (8, 8), color)
    return Sample(str(number), (picture, "what color?"), (color,), "color", (Region(0, (0.0, 0.0, 1.0, 1.0)),))


class Plain(Task):
    """What colour is a plain picture?, as it should be; all that is broken below is derived from it."""

    def samples(self) -> Iterator[Sample]:
        return (self.changed(sample(number)) for number in range(len(COLORS)))

    def changed(self, one: Sample) -> Sample:
        """What a broken task makes of a sample."""
        return one

    def groups(self) -> dict[str, tuple[str, ...]]:
        return {"perception": ("color",)}

    def has_regions(self, limit: int | None = None) -> bool:
        return True

    def fingerprint(self) -> str:
        return "plain 1"


class Clips(Plain):
    """The same as clips of two frames, with regions in the second one; as it should be, without what is optional."""

    def changed(self, one: Sample) -> Sample:
        (picture,) = one.visuals
        region = Region(0, (0.25, 0.25, 0.75, 0.75), 1)
        return replace(one, content=(Video((picture, picture)), one.text), regions=(region,))

    def groups(self) -> dict[str, tuple[str, ...]]:
        return {}

    def has_regions(self, limit: int | None = None) -> None:
        return None


SOUND = (Plain, Clips)


class Empty(Plain):
    """Has no sample."""

    def samples(self) -> Iterator[Sample]:
        return iter(())


class OneId(Plain):
    """All samples have one id."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, id="0")


class NoQuestion(Plain):
    """Asks nothing."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, content=one.visuals)


class OneReference(Plain):
    """A text in place of a tuple of texts."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, references=one.references[0])


class NoType(Plain):
    """Types are empty."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, type="")

    def groups(self) -> dict[str, tuple[str, ...]]:
        return {}


class Pixels(Plain):
    """Regions in pixels."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, regions=(Region(0, (0, 0, 8, 8)),))


class OtherVisual(Plain):
    """Regions of a picture that is not there."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, regions=(Region(1, (0, 0, 1, 1)),))


class OtherFrame(Clips):
    """Regions of a frame that is not there."""

    def changed(self, one: Sample) -> Sample:
        return replace(super().changed(one), regions=(Region(0, (0, 0, 1, 1), 2),))


class Shuffled(Plain):
    """An order drawn from the global generator."""

    def samples(self) -> Iterator[Sample]:
        return iter(random.sample(list(super().samples()), len(COLORS)))


class OneIterator(Plain):
    """The same iterator at each call."""

    iterators: ClassVar[dict[str, Iterator[Sample]]] = {}

    def samples(self) -> Iterator[Sample]:
        return self.iterators.setdefault("only", super().samples())


class OneCursor(Plain):
    """One place in the data, whoever reads."""

    cursor: ClassVar[list[int]] = [0]

    def samples(self) -> Iterator[Sample]:
        self.cursor[0] = 0
        while self.cursor[0] < len(COLORS):
            self.cursor[0] += 1
            yield sample(self.cursor[0] - 1)


class PerCent(Plain):
    """Scores from 0 to 100."""

    def score(self, sample: Sample, answer: str) -> float:
        return 100 * super().score(sample, answer)


class CaseOfTheReference(Plain):
    """Normalises answers, but not references."""

    def changed(self, one: Sample) -> Sample:
        return replace(one, references=(one.references[0].title(),))

    def score(self, sample: Sample, answer: str) -> float:
        return float(answer.lower() in sample.references)


class AlwaysRight(Plain):
    """Every answer is right."""

    def score(self, sample: Sample, answer: str) -> float:
        return float("" in answer)


class Tiring(Plain):
    """Scores less each time."""

    calls: ClassVar[Iterator[int]] = count(1)

    def score(self, sample: Sample, answer: str) -> float:
        return super().score(sample, answer) / next(self.calls)


class Clock(Plain):
    """The time as a fingerprint."""

    def fingerprint(self) -> str:
        return str(time.perf_counter_ns())


class NoRegions(Plain):
    """Denies its regions."""

    def has_regions(self, limit: int | None = None) -> bool:
        return False


class Misspelt(Plain):
    """Groups of types that there are not."""

    def groups(self) -> dict[str, tuple[str, ...]]:
        return {"perception": ("colour",)}


class Silent(Plain):
    """Answers may have no token."""

    max_new_tokens: int = 0


BROKEN: dict[str, type[Task]] = {
    "task_yields_samples": Empty,
    "sample_ids_are_unique": OneId,
    "samples_have_content": NoQuestion,
    "samples_have_references": OneReference,
    "samples_have_a_type_and_a_group": NoType,
    "regions_lie_in_the_visuals": Pixels,
    "samples_come_again": Shuffled,
    "iterations_do_not_disturb_each_other": OneCursor,
    "scores_lie_between_0_and_1": PerCent,
    "references_score": CaseOfTheReference,
    "wrong_answers_score_less": AlwaysRight,
    "scoring_is_repeatable": Tiring,
    "fingerprint_is_stable": Clock,
    "has_regions_agrees_with_the_samples": NoRegions,
    "groups_name_types": Misspelt,
    "answers_may_have_tokens": Silent,
}
ALSO: dict[str, set[str]] = {
    "samples_come_again": {"iterations_do_not_disturb_each_other"},
}
