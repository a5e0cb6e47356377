"""The plan of a training run: which stage, how many steps, on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from vtprune.core.errors import VtpruneError

Draws = Literal["sequence", "step"]


class RunError(VtpruneError):
    """A training run that cannot be carried out as asked."""


@dataclass(frozen=True)
class Stage:
    """One part of a run.

    language: train the language model on questions; without it only the tower learns, from dense labels.
    steps: optimiser steps; scenes: prompts a step; peak, end: learning rates, the first reached after `warm` steps and
    the second by a cosine from `decay` steps before the end.
    levels: share of each level; drop: share of steps with a random part of the image tokens; sequences: every how many
    steps two steps of pairs and videos come in between (0: never). hard: draw questions from `HARD_MIX` rather than
    `TRAINING_MIX`. tower: the learning rate of the vision tower, as a share.
    """

    name: str
    steps: int
    language: bool = True
    scenes: int = 16
    questions: int = 24
    peak: float = 3e-3
    end: float = 3e-5
    warm: int = 50
    decay: int = 0
    drop: float = 0.0
    sequences: int = 0
    hard: bool = False
    tower: float = 0.5
    levels: dict[str, float] = field(default_factory=lambda: {"easy": 0.3, "medium": 0.55, "hard": 0.15})


@dataclass(frozen=True)
class Plan:
    """draws: where a step's random numbers come from, see `training.testbed.feed.Feed`."""

    stages: tuple[Stage, ...]
    draws: Draws = "sequence"


PLANS: Final[dict[str, Plan]] = {
    "nano": Plan(
        (
            Stage("vision", 1300, language=False, scenes=48, peak=4e-3, end=2e-3, decay=300),
            Stage("single", 900, levels={"easy": 0.5, "medium": 0.5}),
            Stage("mixed", 700, warm=1, sequences=8, hard=True, tower=0.25),
            Stage("decay", 1700, warm=1, decay=1700, drop=0.2, sequences=10, hard=True, tower=0.25),
        )
    ),
    "mrope": Plan(
        (
            Stage("vision", 1000, language=False, scenes=32, peak=4e-3, end=2e-3, decay=300),
            Stage("single", 900, levels={"easy": 0.5, "medium": 0.5}),
            Stage("mixed", 400, warm=1, sequences=8, hard=True, tower=0.25),
            Stage("decay", 1500, warm=1, decay=1500, drop=0.2, sequences=10, hard=True, tower=0.25),
        )
    ),
    # Not carried out yet. Twice the prompts a step and about twice the steps of nano; the tower, twice as wide, learns
    # at half nano's rate, and so does the language model, three times as wide.
    "mini": Plan(
        (
            Stage("vision", 2000, language=False, scenes=96, peak=2e-3, end=1e-3, warm=200, decay=500),
            Stage("single", 1500, scenes=32, peak=1.5e-3, warm=200, levels={"easy": 0.5, "medium": 0.5}),
            Stage("mixed", 1500, scenes=32, peak=1.5e-3, warm=1, sequences=8, hard=True, tower=0.25),
            Stage(
                "decay",
                4000,
                scenes=32,
                peak=1.5e-3,
                end=1.5e-5,
                warm=1,
                decay=4000,
                drop=0.2,
                sequences=10,
                hard=True,
                tower=0.25,
            ),
        ),
        draws="step",
    ),
}
