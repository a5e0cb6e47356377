"""What each step learns from, drawn in this process or ahead of time in others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.testbed.data import HARD_MIX, TRAINING_MIX, Batch, draw
from training.testbed.device import CPU, Compute
from training.testbed.stages import Draws, RunError, Stage
from vtprune.testbed.scenes import LEVELS
from vtprune.testbed.sequences import Kind

_AHEAD = 4


@dataclass(frozen=True)
class Step:
    """number: of the step in its stage. keep: bool `[prompt, prefix]`, the tokens of the prefix that are left; None if
    all are."""

    number: int
    kind: Kind
    batch: Batch
    keep: Tensor | None

    def pin_memory(self) -> Step:
        """A copy in page-locked memory; a `DataLoader` calls it by this name."""
        return replace(
            self,
            batch=self.batch.moved(lambda tensor: tensor.pin_memory()),
            keep=None if self.keep is None else self.keep.pin_memory(),
        )

    def to(self, device: torch.device) -> Step:
        """The step on `device`; from page-locked memory without waiting."""
        return replace(
            self,
            batch=self.batch.to(device),
            keep=None if self.keep is None else self.keep.to(device, non_blocking=True),
        )


def kept(rng: np.random.Generator, is_image: Tensor, prompts: int) -> Tensor:
    """A random part of the image tokens, 1/12 to all of them: bool `[prompt, prefix]`. is_image: bool `[prefix]`."""
    images = int(is_image.sum())
    count = int(rng.integers(images // 12, images))
    drawn = torch.from_numpy(rng.random((prompts, images))).argsort(1).argsort(1) < count
    keep = torch.ones(prompts, len(is_image), dtype=torch.bool)
    keep[:, is_image] = drawn
    return keep


def next_batch(rng: np.random.Generator, stage: Stage, step: int) -> tuple[Kind, Batch]:
    """What a step learns from; pairs and videos come in turns, with fewer prompts for their more images."""
    if stage.sequences and step % stage.sequences in (3, 4):
        kind: Kind = "pair" if step % stage.sequences == 3 else "video"
        count = stage.scenes // 2 if kind == "pair" else stage.scenes // 4
        return kind, draw(rng, kind, count, 8)
    mix = HARD_MIX if stage.hard else TRAINING_MIX
    names = list(stage.levels)
    bounds = np.cumsum(list(stage.levels.values()))
    level = LEVELS[names[int(np.searchsorted(bounds, rng.random() * 0.999))]]  # type: ignore[index]
    return "image", draw(rng, "image", stage.scenes, stage.questions if stage.language else 1, level=level, mix=mix)


def draw_step(rng: np.random.Generator, stage: Stage, step: int, is_image: Mapping[Kind, Tensor]) -> Step:
    """A batch and, in a share of the steps, which image tokens it keeps. is_image: `Prompt.is_image` by kind."""
    kind, batch = next_batch(rng, stage, step)
    keep = kept(rng, is_image[kind], len(batch.words)) if rng.random() < stage.drop else None
    return Step(step, kind, batch, keep)


class _Steps(Dataset[Step]):
    """The steps of a stage by number: each has its own random stream, so any process may draw any of them."""

    def __init__(self, seed: int, number: int, stage: Stage, is_image: Mapping[Kind, Tensor]) -> None:
        self.seed, self.number, self.stage, self.is_image = seed, number, stage, is_image

    def __getitem__(self, step: int) -> Step:
        rng = np.random.default_rng((self.seed, self.number, step))
        return draw_step(rng, self.stage, step, self.is_image)


class Feed:
    """The steps of a run, on their device.

    draws: ``sequence`` hands one random stream from step to step (the shipped models; in this process only), ``step``
    gives each step its own, from seed, stage and step, so that the batches are the same for any number of `workers`.

    Raises:
        RunError: for workers with ``sequence``.
    """

    def __init__(
        self, draws: Draws, seed: int, is_image: Mapping[Kind, Tensor], compute: Compute = CPU, workers: int = 0
    ) -> None:
        if workers < 0:
            raise RunError(f"{workers} workers: expected 0 (draw in the training process) or more")
        if workers and draws == "sequence":
            raise RunError(
                f"{workers} workers cannot share one random stream (draws 'sequence', with which the shipped models "
                "were trained): use --draws step, which gives other batches, or --workers 0"
            )
        self.draws, self.seed, self.is_image, self.compute, self.workers = draws, seed, is_image, compute, workers
        self._rng = np.random.default_rng(seed)

    def steps(self, number: int, stage: Stage, start: int = 0) -> Iterator[Step]:
        """The steps of the stage with that number in the plan, from `start` on."""
        for step in self._drawn(number, stage, start):
            yield step.to(self.compute.device)

    def _drawn(self, number: int, stage: Stage, start: int) -> Iterator[Step]:
        rest = range(start, stage.steps)
        if self.draws == "sequence":
            made = (draw_step(self._rng, stage, step, self.is_image) for step in rest)
            yield from (step.pin_memory() for step in made) if self.compute.cuda else made
            return
        yield from DataLoader(
            _Steps(self.seed, number, stage, self.is_image),
            batch_size=None,
            sampler=rest,
            num_workers=self.workers,
            prefetch_factor=_AHEAD if self.workers else None,
            pin_memory=self.compute.cuda,
            generator=torch.Generator(),  # not the global one, which it would advance
        )

    def state(self) -> dict[str, Any] | None:
        """Where the one stream is, for a checkpoint; None where each step has its own."""
        return dict(self._rng.bit_generator.state) if self.draws == "sequence" else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from what `state` gave."""
        if state is not None:
            self._rng.bit_generator.state = state
