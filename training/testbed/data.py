"""Batches for training and for the quick evaluation: images, packed questions and dense labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.testbed.families import MEAN, SIDE, STD, TOKENS
from vtprune.testbed.digits import Split
from vtprune.testbed.questions import MIX, Grid, Question, ask
from vtprune.testbed.scenes import LEVELS, Level, Scenes, coverage, draw_scenes, render
from vtprune.testbed.sequences import (
    FRAMES_PER_MOMENT,
    PAIR_MIX,
    SEQUENCE_MAKERS,
    VIDEO_MIX,
    Kind,
    draw_pair,
    draw_video,
)
from vtprune.testbed.vocabulary import COLORS, EOS, INDEX

IGNORED: Final = -100
_COVERED: Final = 0.35
TRAINING_MIX: Final[Mapping[str, float]] = {
    "color2digit": 0.09,
    "digit2color": 0.09,
    "place2digit": 0.06,
    "place2color": 0.05,
    "exist": 0.12,
    "count_color": 0.08,
    "count_digit": 0.08,
    "hop_digit": 0.13,
    "hop_color": 0.09,
    "where": 0.09,
    "read": 0.05,
    "describe": 0.04,
    "list": 0.03,
}
"""More of what is hard than an evaluation has."""
HARD_MIX: Final[Mapping[str, float]] = {
    "color2digit": 0.06,
    "digit2color": 0.06,
    "place2digit": 0.05,
    "place2color": 0.03,
    "exist": 0.16,
    "count_color": 0.07,
    "count_digit": 0.09,
    "hop_digit": 0.18,
    "hop_color": 0.10,
    "where": 0.09,
    "read": 0.04,
    "describe": 0.03,
    "list": 0.04,
}
"""For when the simple questions are learned: these types need several heads to work together, and lag behind."""


@dataclass(frozen=True)
class Batch:
    """frames: float32 `[image, frame, 3, 48, 48]`, normalised; images of one prompt follow one another.

    words, labels, segment: int64 `[prompt, word]`: the questions and answers of a prompt one after another, the label
    of each word (what comes next; `IGNORED` where nothing is asked) and the question's number; offset: place in the
    question. questions: per prompt. digit, color (int64 `[image, patch]`, 10 and 8 where there is none): what a patch
    shows; pairs: float32 `[image, 80]`, which (digit, colour) are there.
    """

    frames: Tensor
    words: Tensor
    labels: Tensor
    segment: Tensor
    offset: Tensor
    questions: list[list[Question]]
    digit: Tensor
    color: Tensor
    pairs: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `move` applied to each tensor."""
        tensors: dict[str, Any] = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; from page-locked memory without waiting. The questions stay Python objects."""
        return self.moved(lambda tensor: tensor.to(device, non_blocking=True))


def draw(
    rng: np.random.Generator,
    kind: Kind,
    count: int,
    questions: int,
    *,
    level: Level = LEVELS["medium"],
    split: Split = "train",
    mix: Mapping[str, float] = MIX,
) -> Batch:
    """`count` prompts of one kind with `questions` questions each."""
    if kind == "image":
        scenes = draw_scenes(rng, count, level, split)
        asked = []
        for index in range(count):
            grid = Grid(rng, scenes.digit[index], scenes.color[index])
            asked.append([ask(grid, mix) for _ in range(questions)])
    else:
        drawn = [(draw_pair if kind == "pair" else draw_video)(rng, split) for _ in range(count)]
        scenes = join([part for part, _ in drawn])
        mix = PAIR_MIX if kind == "pair" else VIDEO_MIX
        asked = [[ask(sequence, mix, SEQUENCE_MAKERS) for _ in range(questions)] for _, sequence in drawn]
    frames = np.stack([render(rng, scenes) for _ in range(FRAMES_PER_MOMENT if kind == "video" else 1)], 1)
    if kind != "video":
        frames = np.repeat(frames, FRAMES_PER_MOMENT, 1)
    digit, color, pairs = _dense(scenes)
    return Batch(normalise(frames), *_pack(asked), asked, digit, color, pairs)


def join(parts: list[Scenes]) -> Scenes:
    """Several batches of scenes as one."""
    names = [name for name in vars(parts[0]) if name != "noise"]
    return Scenes(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}, noise=parts[0].noise
    )


def normalise(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 `[image, frame, height, width, 3]` to float32 `[image, frame, 3, height, width]`."""
    return (torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float() / 255 - MEAN) / STD


def _dense(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    share = coverage(scenes, SIDE)
    cell, covered = share.argmax(1), share.max(1) >= _COVERED
    scene = np.arange(len(scenes))[:, None]
    digit = np.where(covered, scenes.digit[scene, cell], 10)
    color = np.where(covered, scenes.color[scene, cell], len(COLORS))
    pairs = np.zeros((len(scenes), 10 * len(COLORS)), np.float32)
    rows, cells = np.nonzero(scenes.digit >= 0)
    pairs[rows, scenes.digit[rows, cells] * len(COLORS) + scenes.color[rows, cells]] = 1
    return torch.from_numpy(digit), torch.from_numpy(color), torch.from_numpy(pairs)


def _pack(asked: list[list[Question]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows: list[tuple[list[int], ...]] = []
    for questions in asked:
        words: list[int] = []
        labels: list[int] = []
        segment: list[int] = []
        offset: list[int] = []
        for number, question in enumerate(questions):
            prompt, answer = ([INDEX[word] for word in part] for part in (question.words, question.answer))
            ids = [*prompt, *answer]
            words += ids
            labels += [IGNORED] * (len(prompt) - 1) + [*answer, INDEX[EOS]]
            segment += [number] * len(ids)
            offset += range(len(ids))
        rows.append((words, labels, segment, offset))
    longest = max(len(row[0]) for row in rows)
    fill = (0, IGNORED, -1, 0)
    padded = [[row[part] + [fill[part]] * (longest - len(row[part])) for row in rows] for part in range(4)]
    packed = [torch.tensor(part) for part in padded]
    return packed[0], packed[1], packed[2], packed[3]


PATCH_ROW, PATCH_COLUMN = torch.arange(TOKENS) // SIDE, torch.arange(TOKENS) % SIDE
