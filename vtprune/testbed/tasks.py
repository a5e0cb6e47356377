"""The testbed as a task: questions about made-up scenes, with the regions in which each answer can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, field_validator, model_validator

from vtprune.core.errors import VtpruneError, did_you_mean
from vtprune.core.task import Part, Region, Sample, Task, Video
from vtprune.testbed.digits import SIZE
from vtprune.testbed.questions import CORE, HOP, MAKERS, MIX, MULTI, Grid, Question, ask
from vtprune.testbed.scenes import CANVAS, CELL, GRID, LEVELS, LevelName, Scenes, draw_scenes, render, scene_rng
from vtprune.testbed.sequences import (
    FRAMES_PER_MOMENT,
    PAIR_MIX,
    SEQUENCE_MAKERS,
    VIDEO_MIX,
    Kind,
    draw_pair,
    draw_video,
)
from vtprune.testbed.vocabulary import ORDINALS

GENERATOR: Final = "1"
"""Rises when a scene, a question or an answer changes; part of the identity of every result."""
COUNT: Final = ("count_color", "count_digit")
MIXES: Final[Mapping[Kind, Mapping[str, float]]] = {"image": MIX, "pair": PAIR_MIX, "video": VIDEO_MIX}
GROUPS: Final[Mapping[Kind, Mapping[str, tuple[str, ...]]]] = {
    "image": {"core": CORE, "count": COUNT, "hop": HOP, "multi": MULTI},
    "pair": {"pair": tuple(PAIR_MIX)},
    "video": {"video": tuple(VIDEO_MIX)},
}
_PATIENCE: Final = 400


class SceneError(VtpruneError):
    """Samples that cannot be drawn."""


class Testbed(Task):
    """Held-out scenes of handwritten digits, drawn anew from a seed each time; nothing is stored.

    variant: one scene, a pair of scenes, or a video of four moments.
    level: how many digits and how much clutter (of ``image``; pairs and videos have one level).
    seed: of the scenes. scenes: how many; the first of more are the same.
    questions: for each scene, all different; videos have at most seven.
    types: only these question types; a scene in which none of them fits gives no sample.
    frames: a video as a ``native`` video of eight frames, or as one image per moment for models that take images only.
    max_new_tokens: tokens an answer may have at most; the longest of the testbed's has fewer.

    Scoring is exact match.
    """

    __test__: ClassVar[bool] = False  # the name starts like a test class of pytest

    variant: Kind = "image"
    level: LevelName = "medium"
    seed: int = Field(default=0, ge=0)
    scenes: int = Field(default=512, ge=1)
    questions: int = Field(default=8, ge=1)
    types: tuple[str, ...] | None = None
    frames: Literal["native", "images"] = "native"
    max_new_tokens: int = Field(default=10, ge=1)

    @field_validator("types")
    @classmethod
    def _known(cls, types: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [name for mix in MIXES.values() for name in mix]
        for name in types or ():
            if name not in known:
                raise ValueError(f"unknown question type {name!r}.{did_you_mean(name, known)}")
        if types is not None and (not types or len(set(types)) < len(types)):
            raise ValueError(f"types is {list(types)}: expected question types, each once, or nothing for all of them")
        return types

    @model_validator(mode="after")
    def _consistent(self) -> Testbed:
        mix = MIXES[self.variant]
        problems = []
        if foreign := [name for name in self.types or () if name not in mix]:
            problems.append(f"variant {self.variant!r} has no questions of type {foreign}; it has {', '.join(mix)}")
        if self.variant != "image" and self.level != "medium":
            problems.append(f"level {self.level!r} has no effect on variant {self.variant!r}: leave it out")
        if self.variant != "video" and self.frames != "native":
            problems.append(f"frames {self.frames!r} has no effect on variant {self.variant!r}: leave it out")
        if self.types == ("list",) and LEVELS[self.level].fewest > 8:
            problems.append(f"questions of type 'list' need scenes of 8 digits at most; level {self.level!r} has more")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(),
            cls(level="hard", seed=1, scenes=3, questions=5, types=("read", "exist", "hop_digit")),
            cls(variant="pair", scenes=3),
            cls(variant="video", scenes=2),
            cls(variant="video", scenes=2, frames="images"),
        )

    def samples(self) -> Iterator[Sample]:
        """Scene after scene; the questions of a scene follow one another and share a ``group``.

        Raises:
            SceneError: after the last scene, if none of the types fitted any of them.
        """
        name = self.level if self.variant == "image" else self.variant
        some = False
        for index in range(self.scenes):
            group = f"{name}-{self.seed}-{index}"
            scenes, visuals, questions = self._draw(index)
            for number, question in enumerate(questions):
                some = True
                yield Sample(
                    id=f"{group}-{number}",
                    content=(*visuals, question.text),
                    references=(" ".join(question.answer),),
                    type=question.type,
                    regions=tuple(region for place in question.cells for region in self._regions(scenes, *place)),
                    group=group,
                )
        if not some:
            raise SceneError(
                f"none of {self.scenes} scenes has a question of type {', '.join(self.types or ())}: "
                f"use more scenes, a level with fewer digits than {self.level!r}, or other types"
            )

    def fingerprint(self) -> str:
        return f"testbed generator {GENERATOR}"

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        wanted = self.types or tuple(MIXES[self.variant])
        groups = {name: tuple(one for one in types if one in wanted) for name, types in GROUPS[self.variant].items()}
        return {name: types for name, types in groups.items() if types}

    def _draw(self, index: int) -> tuple[Scenes, tuple[Part, ...], list[Question]]:
        """Images come before questions in the random stream, so that they depend on neither number nor types."""
        rng = scene_rng(self.seed, index)
        view: object
        makers: Mapping[str, Callable]
        if self.variant == "image":
            scenes = draw_scenes(rng, 1, LEVELS[self.level], "test")
            view, makers = Grid(rng, scenes.digit[0], scenes.color[0]), MAKERS
        else:
            scenes, view = (draw_pair if self.variant == "pair" else draw_video)(rng, "test")
            makers = SEQUENCE_MAKERS
        repeats = FRAMES_PER_MOMENT if self.variant == "video" else 1
        shots = [[Image.fromarray(pixels) for pixels in render(rng, scenes)] for _ in range(repeats)]
        visuals: tuple[Part, ...]
        if self.variant == "image":
            visuals = (shots[0][0],)
        elif self.variant == "video" and self.frames == "native":
            visuals = (Video(tuple(shot[moment] for moment in range(len(scenes)) for shot in shots)),)
        else:
            visuals = tuple(part for pair in zip(ORDINALS, shots[0], strict=False) for part in pair)
        return scenes, visuals, self._ask(view, makers)

    def _ask(self, view: object, makers: Mapping[str, Callable]) -> list[Question]:
        """Different questions about one scene; fewer than wanted where it has no more."""
        mix = {
            name: share for name, share in MIXES[self.variant].items() if name in (self.types or MIXES[self.variant])
        }
        found: dict[tuple[str, ...], Question] = {}
        misses = 0

        def fresh(make: Callable) -> Callable:
            def made(view: object) -> Question | None:
                nonlocal misses
                question = make(view)
                if question is not None and question.words not in found:
                    return question
                misses += 1
                if misses == _PATIENCE:
                    raise _NoMoreError
                return None

            return made

        guarded = {name: fresh(makers[name]) for name in mix}
        while len(found) < self.questions:
            misses = 0
            try:
                question = ask(view, mix, guarded)  # type: ignore[arg-type]
            except _NoMoreError:
                break
            found[question.words] = question
        return list(found.values())

    def _regions(self, scenes: Scenes, image: int, cell: int) -> list[Region]:
        """Where a cell's digit is; all of the cell if it is empty, for then that is what must be seen."""
        corner = np.array([cell % GRID, cell // GRID]) * CELL
        size = CELL
        if scenes.digit[image, cell] >= 0:
            corner, size = corner + scenes.offset[image, cell][::-1], SIZE
        left, top = (int(value) for value in corner)
        box = (left / CANVAS, top / CANVAS, (left + size) / CANVAS, (top + size) / CANVAS)
        if self.variant == "video" and self.frames == "native":
            first = image * FRAMES_PER_MOMENT
            return [Region(0, box, frame) for frame in range(first, first + FRAMES_PER_MOMENT)]
        return [Region(image, box)]


class _NoMoreError(Exception):
    """A scene has no further question."""
