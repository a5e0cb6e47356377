"""Prompts with several images: two scenes side by side, and short videos.

A pair is two independent scenes of few digits. A video has four moments; digits appear one after another and stay, and
one digit may move by one cell a moment. Each moment is two frames that differ in pixel noise only, so that a model that
fuses two frames into one token (Qwen2.5-VL) sees one moment in it; a model that takes images gets one frame of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from vtprune.testbed.digits import Split
from vtprune.testbed.questions import Grid, Question
from vtprune.testbed.scenes import CELLS, GRID, Level, Scenes, draw_scenes
from vtprune.testbed.vocabulary import COLORS, DIRECTIONS, ORDINALS

MOMENTS: Final = 4
FRAMES_PER_MOMENT: Final = 2
PAIR_LEVEL: Final = Level(3, 5, 4, 0.05)
VIDEO_LEVEL: Final = Level(5, 6, 4, 0.05)
_WAYS: Final = {"left": "left", "right": "right", "above": "up", "below": "down"}

Kind = Literal["image", "pair", "video"]


@dataclass(frozen=True)
class Sequence:
    """The images of one prompt, as the makers of questions see them.

    grids: one per image. moved: the cell path and direction of the digit that moves, if one does. born: for each moment
    after the first, the cell whose digit appears in it.
    """

    rng: np.random.Generator
    grids: tuple[Grid, ...]
    born: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    direction: str | None = None


def draw_pair(rng: np.random.Generator, split: Split) -> tuple[Scenes, Sequence]:
    """Two scenes and what their questions need."""
    scenes = draw_scenes(rng, 2, PAIR_LEVEL, split)
    return scenes, Sequence(rng, _grids(rng, scenes))


def draw_video(rng: np.random.Generator, split: Split) -> tuple[Scenes, Sequence]:
    """The four moments of one video as four scenes with one backdrop, and what their questions need."""
    first = draw_scenes(rng, 1, VIDEO_LEVEL, split)
    occupied = rng.permutation(np.flatnonzero(first.digit[0] >= 0))
    mover, born, stay = int(occupied[0]), occupied[1:MOMENTS], set(occupied[MOMENTS:].tolist())
    direction, path = _path(rng, mover, set(occupied[1:].tolist()))
    source = np.tile(np.arange(CELLS), (MOMENTS, 1))
    visible = np.zeros((MOMENTS, CELLS), bool)
    for moment in range(MOMENTS):
        source[moment, [mover, path[moment]]] = source[moment, [path[moment], mover]]
        visible[moment, [path[moment], *stay, *born[:moment]]] = True
    scenes = first.repeated(MOMENTS).rearranged(source).only(visible)
    return scenes, Sequence(rng, _grids(rng, scenes), tuple(born.tolist()), path, direction)


def _grids(rng: np.random.Generator, scenes: Scenes) -> tuple[Grid, ...]:
    return tuple(Grid(rng, scenes.digit[i], scenes.color[i], i) for i in range(len(scenes)))


def _path(rng: np.random.Generator, start: int, taken: set[int]) -> tuple[str | None, tuple[int, ...]]:
    """The straight path of a digit that moves as far as it can, at least one cell; it stays where none is free."""
    ways = {}
    for name, (down, right) in DIRECTIONS.items():
        path = [start]
        while len(path) < MOMENTS:
            row, column = path[-1] // GRID + down, path[-1] % GRID + right
            if not (0 <= row < GRID and 0 <= column < GRID) or row * GRID + column in taken:
                break
            path.append(row * GRID + column)
        if len(path) > 1:
            ways[name] = path + [path[-1]] * (MOMENTS - len(path))
    if not ways:
        return None, (start,) * MOMENTS
    name = list(ways)[int(rng.random() * len(ways))]
    return name, tuple(ways[name])


def _which(sequence: Sequence) -> Question | None:
    """Which of two images shows a digit that one, both or none shows."""
    one, other = sequence.grids
    grid = sequence.grids[int(sequence.rng.random() * 2)]
    cell = grid.pick(list(grid.at))
    assert cell is not None
    by_color = bool(sequence.rng.random() < 0.5)
    key = {"color": grid.at[cell][1]} if by_color else {"digit": grid.at[cell][0]}
    found = [one.cells(**key), other.cells(**key)]
    answer = "both" if all(found) else ORDINALS[0] if found[0] else ORDINALS[1]
    cells = tuple((image, cell) for image, cells in enumerate(found) for cell in cells)
    words = f"which image has the {grid.name(cell, color=by_color)} ?"
    return Question("which_image", tuple(words.split()), (answer,), cells)


def _in_image(sequence: Sequence) -> Question | None:
    """The digit of a colour that is unique in the named image; the other image may show the colour too."""
    image = int(sequence.rng.random() * 2)
    grid = sequence.grids[image]
    cell = grid.pick(grid.unique(by_color=True))
    if cell is None:
        return None
    words = f"what digit is {grid.name(cell, color=True)} in the {ORDINALS[image]} image ?"
    return grid.ask("in_image", words, [grid.name(cell, color=False)], [cell])


def _more(sequence: Sequence) -> Question:
    counts = [len(grid.at) for grid in sequence.grids]
    answer = "same" if counts[0] == counts[1] else ORDINALS[counts[1] > counts[0]]
    cells = tuple((grid.image, cell) for grid in sequence.grids for cell in grid.at)
    return Question("more", ("which", "image", "has", "more", "digits", "?"), (answer,), cells)


def _when(sequence: Sequence) -> Question | None:
    """The moment in which a digit appears that is named by colour and value."""
    moment = 1 + int(sequence.rng.random() * (MOMENTS - 1))
    cell, last = sequence.born[moment - 1], sequence.grids[-1]
    digit, color = last.at[cell]
    if len(last.cells(digit=digit, color=color)) > 1:
        return None
    words = f"when does the {COLORS[color]} {digit} appear ?"
    cells = tuple((image, cell) for image in range(moment, MOMENTS))
    return Question("when", tuple(words.split()), (ORDINALS[moment],), cells)


def _appears(sequence: Sequence) -> Question:
    moment = 1 + int(sequence.rng.random() * (MOMENTS - 1))
    cell, grid = sequence.born[moment - 1], sequence.grids[moment]
    words = f"what digit appears in the {ORDINALS[moment]} frame ?"
    return grid.ask("appears", words, [grid.name(cell, color=False)], [cell])


def _moves(sequence: Sequence) -> Question | None:
    """Which way the digit of a colour moves; the colour is unique in the video."""
    last = sequence.grids[-1]
    cell = sequence.path[-1]
    if sequence.direction is None or cell not in last.unique(by_color=True):
        return None
    words = f"where does the {last.name(cell, color=True)} digit move ?"
    cells = tuple(enumerate(sequence.path))
    return Question("moves", tuple(words.split()), (_WAYS[sequence.direction],), cells)


SEQUENCE_MAKERS: Final[Mapping[str, Callable[[Sequence], Question | None]]] = {
    "which_image": _which,
    "in_image": _in_image,
    "more": _more,
    "when": _when,
    "appears": _appears,
    "moves": _moves,
}
PAIR_MIX: Final = {"which_image": 0.4, "in_image": 0.4, "more": 0.2}
VIDEO_MIX: Final = {"when": 0.4, "appears": 0.35, "moves": 0.25}
