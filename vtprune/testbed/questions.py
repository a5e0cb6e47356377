"""Questions about one scene, each needing other regions of it.

Every type names what it asks, its answer and the cells that a reader must see. A type that does not fit a scene (no
colour is unique, say) gives nothing, and another type is drawn; so the shares of `MIX` are those of the draws, and the
evaluation's shares differ from them by a point or two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vtprune.testbed.scenes import CELLS, GRID
from vtprune.testbed.vocabulary import COLORS, COLUMNS, DIRECTIONS, ROWS

MOST_LISTED: Final = 8


@dataclass(frozen=True)
class Question:
    """type: a key of `MIX` (or of a mix of `vtprune.testbed.sequences`). words, answer: one token each. cells: what a
    reader must see, as (image, cell) with the image counted in the prompt."""

    type: str
    words: tuple[str, ...]
    answer: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        """The question as it stands in a prompt, without image placeholders."""
        return " ".join(self.words)


class Grid:
    """One scene as its questions see it: digit and colour of each occupied cell.

    rng: where choices come from. at: cell to (digit, colour index). image: the scene's index among a prompt's images.
    """

    def __init__(self, rng: np.random.Generator, digit: NDArray[np.int64], color: NDArray[np.int64], image: int = 0):
        self.rng, self.image = rng, image
        self.at = {
            c: (int(d), int(k)) for c, (d, k) in enumerate(zip(digit.tolist(), color.tolist(), strict=True)) if d >= 0
        }

    def pick(self, options: Sequence[int]) -> int | None:
        """One of the options, uniformly; None if there are none."""
        return options[int(self.rng.random() * len(options))] if options else None

    def cells(self, *, digit: int | None = None, color: int | None = None) -> list[int]:
        """The cells that show this digit, this colour, or both."""
        return [c for c, (d, k) in self.at.items() if digit in (None, d) and color in (None, k)]

    def unique(self, *, by_color: bool) -> list[int]:
        """The cells whose colour (or else digit) no other cell has."""
        index = 1 if by_color else 0
        seen: dict[int, list[int]] = {}
        for cell, content in self.at.items():
            seen.setdefault(content[index], []).append(cell)
        return [cells[0] for cells in seen.values() if len(cells) == 1]

    def name(self, cell: int, *, color: bool) -> str:
        """What to call the cell's content: its colour or its digit, ``none`` if it is empty."""
        if cell not in self.at:
            return "none"
        return COLORS[self.at[cell][1]] if color else str(self.at[cell][0])

    def ask(self, type: str, words: str, answer: Sequence[str], cells: Sequence[int]) -> Question:
        """A question whose words are apart by spaces."""
        return Question(type, tuple(words.split()), tuple(answer), tuple((self.image, cell) for cell in cells))


Maker = Callable[[Grid], Question | None]


def _color2digit(grid: Grid) -> Question | None:
    cell = grid.pick(grid.unique(by_color=True))
    if cell is None:
        return None
    words = f"what digit is {grid.name(cell, color=True)} ?"
    return grid.ask("color2digit", words, [grid.name(cell, color=False)], [cell])


def _digit2color(grid: Grid) -> Question | None:
    cell = grid.pick(grid.unique(by_color=False))
    if cell is None:
        return None
    words = f"what color is the {grid.name(cell, color=False)} ?"
    return grid.ask("digit2color", words, [grid.name(cell, color=True)], [cell])


def _place(type: str, *, color: bool) -> Maker:
    def make(grid: Grid) -> Question | None:
        cell = grid.pick(list(grid.at)) if grid.rng.random() < 0.9 else grid.pick(range(CELLS))
        assert cell is not None
        words = f"what {'color' if color else 'digit'} is at {ROWS[cell // GRID]} {COLUMNS[cell % GRID]} ?"
        return grid.ask(type, words, [grid.name(cell, color=color)], [cell])

    return make


def _exist(grid: Grid) -> Question | None:
    """Whether a coloured digit is there; about two in three are. The others name a digit and a colour that are both in
    the scene, but not together (half of the draws; some of them find no such pair)."""
    one, other = grid.pick(list(grid.at)), grid.pick(list(grid.at))
    assert one is not None
    assert other is not None
    there = grid.rng.random() < 0.5
    digit, color = grid.at[one][0], grid.at[one if there else other][1]
    if not there and grid.cells(digit=digit, color=color):
        return None
    words = f"is there a {COLORS[color]} {digit} ?"
    return grid.ask("exist", words, ["yes" if there else "no"], [one] if there else [one, other])


def _count(type: str, *, color: bool) -> Maker:
    def make(grid: Grid) -> Question | None:
        if grid.rng.random() < 0.3:
            key = int(grid.rng.random() * (len(COLORS) if color else 10))
        else:
            cell = grid.pick(list(grid.at))
            assert cell is not None
            key = grid.at[cell][1 if color else 0]
        cells = grid.cells(color=key) if color else grid.cells(digit=key)
        return grid.ask(type, f"how many are {COLORS[key] if color else key} ?", [str(len(cells))], cells)

    return make


def _hop(type: str, *, color: bool) -> Maker:
    """The neighbour of a digit that is named by its unique colour or value; nine in ten have a neighbour there."""

    def make(grid: Grid) -> Question | None:
        by_color = bool(grid.rng.random() < 0.5)
        direction = list(DIRECTIONS)[int(grid.rng.random() * 4)]
        down, right = DIRECTIONS[direction]
        pairs = {}
        for cell in grid.unique(by_color=by_color):
            row, column = cell // GRID + down, cell % GRID + right
            if 0 <= row < GRID and 0 <= column < GRID:
                pairs[cell] = row * GRID + column
        full = [cell for cell, neighbour in pairs.items() if neighbour in grid.at]
        near = grid.pick(full if full and grid.rng.random() < 0.9 else list(pairs))
        if near is None:
            return None
        place = f"{direction} of" if right else direction
        words = f"what {'color' if color else 'digit'} is {place} the {grid.name(near, color=by_color)} ?"
        return grid.ask(type, words, [grid.name(pairs[near], color=color)], [near, pairs[near]])

    return make


def _where(grid: Grid) -> Question | None:
    by_color = bool(grid.rng.random() < 0.5)
    cell = grid.pick(grid.unique(by_color=by_color))
    if cell is None:
        return None
    words = f"where is the {grid.name(cell, color=by_color)} ?"
    return grid.ask("where", words, [ROWS[cell // GRID], COLUMNS[cell % GRID]], [cell])


def _line(grid: Grid) -> tuple[str, list[int]]:
    line = int(grid.rng.random() * GRID)
    if grid.rng.random() < 0.5:
        return ROWS[line], [line * GRID + column for column in range(GRID)]
    return COLUMNS[line], [row * GRID + line for row in range(GRID)]


def _read(grid: Grid) -> Question | None:
    line, cells = _line(grid)
    return grid.ask("read", f"read {line} ?", [grid.name(cell, color=False) for cell in cells], cells)


def _describe(grid: Grid) -> Question | None:
    """Colour and digit of each digit of a row or column, in order."""
    line, cells = _line(grid)
    cells = [cell for cell in cells if cell in grid.at]
    answer = [grid.name(cell, color=color) for cell in cells for color in (True, False)]
    return grid.ask("describe", f"describe {line} ?", answer or ["none"], cells)


def _list(grid: Grid) -> Question | None:
    """All digits in reading order; only asked of scenes with at most `MOST_LISTED`."""
    if len(grid.at) > MOST_LISTED:
        return None
    return grid.ask("list", "list the digits ?", [grid.name(cell, color=False) for cell in grid.at], list(grid.at))


MAKERS: Final[Mapping[str, Maker]] = {
    "color2digit": _color2digit,
    "digit2color": _digit2color,
    "place2digit": _place("place2digit", color=False),
    "place2color": _place("place2color", color=True),
    "exist": _exist,
    "count_color": _count("count_color", color=True),
    "count_digit": _count("count_digit", color=False),
    "hop_digit": _hop("hop_digit", color=False),
    "hop_color": _hop("hop_color", color=True),
    "where": _where,
    "read": _read,
    "describe": _describe,
    "list": _list,
}
MIX: Final[Mapping[str, float]] = {
    "color2digit": 0.14,
    "digit2color": 0.14,
    "place2digit": 0.08,
    "place2color": 0.08,
    "exist": 0.10,
    "count_color": 0.07,
    "count_digit": 0.05,
    "hop_digit": 0.09,
    "hop_color": 0.07,
    "where": 0.06,
    "read": 0.05,
    "describe": 0.04,
    "list": 0.03,
}
CORE: Final = ("color2digit", "digit2color", "place2digit", "place2color", "exist")
HOP: Final = ("hop_digit", "hop_color")
MULTI: Final = ("where", "read", "describe", "list")


class Drawn(Protocol):
    """A scene, or a sequence of them, with the generator that its questions are drawn from."""

    @property
    def rng(self) -> np.random.Generator: ...


def ask(grid: Drawn, mix: Mapping[str, float] = MIX, makers: Mapping[str, Callable] = MAKERS) -> Question:
    """One question about a scene, its type drawn from `mix` until one fits; `grid` is what the makers take."""
    names = list(mix)
    bounds = np.cumsum([mix[name] for name in names])
    while True:
        draw = grid.rng.random() * bounds[-1]
        question = makers[names[int(np.searchsorted(bounds, draw, side="right"))]](grid)
        if question is not None:
            return question
