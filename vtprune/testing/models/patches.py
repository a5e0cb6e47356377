"""Inputs of the families that pack the patches of all images into one sequence, as Qwen-VL and GLM-V do.

A family says how many tokens an image makes and which tokens stand around them (`Layout`); everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from vtprune.testing.models.tiny import (
    IMAGE,
    TEXT_IDS,
    VIDEO,
    VISION_END,
    VISION_START,
    Grid,
    Inputs,
    Side,
    draw,
    pad_rows,
)

Row = list[tuple[int, int]]
"""Tokens of a prompt, each with its modality: 0 text, 1 image, 2 video (`mm_token_type_ids`)."""


def wrapped(token: int, kind: int, count: int) -> Row:
    """An image or a whole video between its start and end tokens."""
    return [(VISION_START, 0), *[(token, kind)] * count, (VISION_END, 0)]


def image_row(grid: Grid) -> Row:
    """An image in merged tokens, t, h and w."""
    t, h, w = grid
    return wrapped(IMAGE, 1, t * h * w)


def whole_video(grid: Grid) -> Row:
    """A video of Qwen2-VL and Qwen2.5-VL: all frames in one run."""
    t, h, w = grid
    return wrapped(VIDEO, 2, t * h * w)


def stamped_video(grid: Grid) -> Row:
    """A video of Qwen3-VL: each frame by itself, after its timestamp ("<0.5 seconds>": three tokens here)."""
    t, h, w = grid
    return [item for frame in range(t) for item in [(10, 0), (20 + frame, 0), (11, 0), *wrapped(VIDEO, 2, h * w)]]


@dataclass(frozen=True)
class Layout:
    """How a family lays out its prompts.

    patch, temporal: pixels and pictures a patch spans; merge: patches a token spans in height and in width.
    grids, video_grids: sizes (t, h, w) in patches to draw from.
    video: a video's tokens, from its (t, h, w) in merged tokens.
    text_ids: least text token, and the first one above. video_merge: patches a token of a video spans, if not `merge`.
    """

    patch: int
    temporal: int
    merge: int
    grids: tuple[Grid, ...]
    video: Callable[[Grid], Row]
    video_grids: tuple[Grid, ...] = ((2, 4, 4), (3, 4, 6))
    text_ids: tuple[int, int] = TEXT_IDS
    video_merge: int | None = None

    def make_inputs(
        self,
        images: Sequence[int] = (1,),
        grids: Sequence[Grid] | None = None,
        seed: int = 0,
        side: Side = "left",
        text: tuple[int, int] = (2, 6),
        videos: Sequence[int] | None = None,
        video_grids: Sequence[Grid] | None = None,
    ) -> Inputs:
        """Inputs as `Tiny` describes them.

        videos: how many videos each sample holds. Images and videos of a sample take turns, an image first.
        grids, video_grids: (t, h, w) in patches for each image and each video of the batch in order.
        """
        videos = [0] * len(images) if videos is None else videos
        if len(videos) != len(images):
            raise ValueError(f"videos names {len(videos)} samples and images {len(images)}; name every sample in both")
        stills, clips = (
            _Sizes("image", grids, self.grids, images),
            _Sizes("video", video_grids, self.video_grids, videos),
        )
        rows, pixels, video_pixels = [], [], []
        for sample in range(len(images)):
            generator = torch.Generator().manual_seed(seed + sample)
            own, own_clips = stills.of(sample, generator), clips.of(sample, generator)
            blocks = [
                block
                for pair in zip_longest(
                    [image_row(_merged(grid, self.merge)) for grid in own],
                    [self.video(_merged(grid, self.video_merge or self.merge)) for grid in own_clips],
                )
                for block in pair
                if block is not None
            ]
            rows.append(self._row(blocks, text, generator))
            pixels.append(self._patches(own, generator))
            video_pixels.append(self._patches(own_clips, generator))
        inputs = pad_rows([[token for token, _ in row] for row in rows], side)
        kinds = inputs["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        kinds[inputs["attention_mask"].bool()] = torch.tensor([kind for row in rows for _, kind in row])
        if stills.used:
            inputs["pixel_values"], inputs["image_grid_thw"] = torch.cat(pixels), torch.tensor(stills.used)
        if clips.used:
            inputs["pixel_values_videos"] = torch.cat(video_pixels)
            inputs["video_grid_thw"] = torch.tensor(clips.used)
        return inputs

    def _row(self, blocks: Sequence[Row], text: tuple[int, int], generator: torch.Generator) -> Row:
        """A run of text, then each block followed by another run."""

        def run() -> Row:
            ids = torch.randint(*self.text_ids, (draw(*text, generator),), generator=generator)
            return [(token, 0) for token in ids.tolist()]

        row = run()
        for block in blocks:
            row += block + run()
        return row

    def _patches(self, grids: Sequence[Grid], generator: torch.Generator) -> torch.Tensor:
        count = sum(t * h * w for t, h, w in grids)
        return torch.randn(count, 3 * self.temporal * self.patch**2, generator=generator)


def _merged(grid: Grid, merge: int) -> Grid:
    """A grid in merged tokens."""
    return grid[0], grid[1] // merge, grid[2] // merge


class _Sizes:
    """The grids of a batch: those that were given, or drawn ones. `used` collects them."""

    def __init__(self, kind: str, given: Sequence[Grid] | None, choices: Sequence[Grid], counts: Sequence[int]) -> None:
        if given is not None and len(given) != sum(counts):
            raise ValueError(
                f"got {len(given)} grids for {sum(counts)} {kind}s ({kind}s={tuple(counts)}); give one grid per {kind}"
            )
        self.given, self.choices, self.counts = given, choices, counts
        self.used: list[Grid] = []

    def of(self, sample: int, generator: torch.Generator) -> list[Grid]:
        """A sample's grids; samples are asked for in order. Draws even where grids were given, so that text and pixels
        do not depend on that."""
        count = self.counts[sample]
        drawn = [self.choices[draw(0, len(self.choices) - 1, generator)] for _ in range(count)]
        own = drawn if self.given is None else list(self.given[len(self.used) : len(self.used) + count])
        self.used += own
        return own
