"""Scenes: coloured handwritten digits on a 4 x 4 grid of cells, over a cluttered background of 48 x 48 pixels.

The distribution. Each scene has a number of digits drawn uniformly from its level's range, in distinct cells chosen
uniformly; each digit's value (0 to 9) and colour (8) are uniform and independent, so both repeat. A digit is 8 x 8
pixels, placed uniformly inside its cell of 12 x 12, on a darkened plate. Under the digits lie a low-frequency colour
background, pixel noise, and clutter: 5 x 5 fragments of digits in the same colours, half of them on plates too, so that
neither colour nor a plate gives a digit away.

Everything is drawn from the numpy generator that is passed in; an evaluation draws scene `i` of a seed from
`scene_rng(seed, i)`, so a scene can be made again from two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from vtprune.testbed.digits import SIZE, Split, digits
from vtprune.testbed.vocabulary import COLORS

GRID: Final = 4
CELL: Final = 12
CANVAS: Final = GRID * CELL
CELLS: Final = GRID * GRID
_FRAGMENT: Final = 5
_RGB: Final = np.array(
    [
        [0.95, 0.15, 0.15],
        [0.15, 0.85, 0.20],
        [0.20, 0.35, 1.00],
        [0.95, 0.90, 0.15],
        [0.15, 0.90, 0.90],
        [0.90, 0.20, 0.90],
        [1.00, 0.55, 0.10],
        [0.95, 0.95, 0.95],
    ],
    np.float32,
)

LevelName = Literal["easy", "medium", "hard"]


@dataclass(frozen=True)
class Level:
    """fewest, most: digits in a scene; clutter: fragments of digits under them; noise: of the pixels (0 to 1)."""

    fewest: int
    most: int
    clutter: int
    noise: float


LEVELS: Final[dict[LevelName, Level]] = {
    "easy": Level(3, 6, 4, 0.04),
    "medium": Level(6, 10, 8, 0.06),
    "hard": Level(11, 15, 12, 0.08),
}


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes before they are painted; the content of a cell stays together when it moves.

    digit, color: int64 `[scene, cell]`, -1 where the cell is empty. offset: int64 `[scene, cell, 2]`, the pixels
    (down, right) of the digit inside its cell. image: float32 `[scene, cell, 8, 8]`. paint: float32 `[scene, cell, 3]`.
    opacity: float32 `[scene, cell]`. backdrop: float32 `[scene, 48, 48, 3]`. noise: of the pixels.
    """

    digit: NDArray[np.int64]
    color: NDArray[np.int64]
    offset: NDArray[np.int64]
    image: NDArray[np.float32]
    paint: NDArray[np.float32]
    opacity: NDArray[np.float32]
    backdrop: NDArray[np.float32]
    noise: float

    def __len__(self) -> int:
        return len(self.digit)

    def only(self, visible: NDArray[np.bool_]) -> Scenes:
        """The same scenes with only the digits of the cells in `visible`, bool `[scene, cell]`."""
        return replace(self, digit=np.where(visible, self.digit, -1), color=np.where(visible, self.color, -1))

    def repeated(self, times: int) -> Scenes:
        """Each scene ``times`` times in a row."""
        arrays: dict[str, Any] = {
            name: np.repeat(value, times, axis=0) for name, value in vars(self).items() if name != "noise"
        }
        return replace(self, **arrays)

    def rearranged(self, source: NDArray[np.int64]) -> Scenes:
        """The same scenes with the content of cell `source[scene, cell]` in each cell."""
        scene = np.arange(len(self))[:, None]
        moved = {name: getattr(self, name)[scene, source] for name in ("digit", "color", "offset", "image", "paint")}
        return replace(self, opacity=self.opacity[scene, source], **moved)


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of scene `index` of an evaluation with `seed`."""
    return np.random.default_rng((seed, index))


def draw_scenes(rng: np.random.Generator, count: int, level: Level, split: Split) -> Scenes:
    """Draw `count` scenes of `level`; their digits come from `split`."""
    source = digits(split)
    here = rng.permuted(np.tile(np.arange(CELLS), (count, 1)), axis=1).argsort(axis=1)
    occupied = here < rng.integers(level.fewest, level.most + 1, count)[:, None]
    value = rng.integers(0, 10, (count, CELLS))
    color = rng.integers(0, len(COLORS), (count, CELLS))
    offset = rng.integers(0, CELL - SIZE + 1, (count, CELLS, 2))
    sizes = np.array([len(indices) for indices in source.by_value])
    rank = (rng.random((count, CELLS)) * sizes[value]).astype(np.int64)
    padded = np.stack([np.resize(indices, sizes.max()) for indices in source.by_value])
    paint = np.clip(_RGB[color] + rng.normal(0, 0.05, (count, CELLS, 3)), 0, 1).astype(np.float32)
    opacity = rng.uniform(0.85, 1.0, (count, CELLS)).astype(np.float32)
    return Scenes(
        digit=np.where(occupied, value, -1),
        color=np.where(occupied, color, -1),
        offset=offset,
        image=np.clip(source.images[padded[value, rank]] * 1.25, 0, 1),
        paint=paint,
        opacity=opacity,
        backdrop=_backdrop(rng, count, level, split),
        noise=level.noise,
    )


def render(rng: np.random.Generator, scenes: Scenes) -> NDArray[np.uint8]:
    """Paint the scenes: uint8 `[scene, 48, 48, 3]`, RGB. `rng` draws the pixel noise only."""
    canvas = scenes.backdrop + rng.normal(0, scenes.noise, scenes.backdrop.shape).astype(np.float32)
    plate = np.full((len(scenes), SIZE, SIZE), 0.55, np.float32)
    black = np.zeros((len(scenes), 3), np.float32)
    for cell in range(CELLS):
        occupied = (scenes.digit[:, cell] >= 0).astype(np.float32)
        top = cell // GRID * CELL + scenes.offset[:, cell, 0]
        left = cell % GRID * CELL + scenes.offset[:, cell, 1]
        _stamp(canvas, top, left, plate * occupied[:, None, None], black)
        strength = (occupied * scenes.opacity[:, cell])[:, None, None]
        _stamp(canvas, top, left, scenes.image[:, cell] * strength, scenes.paint[:, cell])
    return (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)


def coverage(scenes: Scenes, patches: int) -> NDArray[np.float32]:
    """Share of each patch that each cell's digit covers: float32 `[scene, cell, patch]`, `patches` on a side."""
    size = CANVAS // patches
    start = np.arange(patches) * size
    corner = np.stack(np.divmod(np.arange(CELLS), GRID), -1) * CELL + scenes.offset
    low, high = corner[..., None], corner[..., None] + SIZE
    span = np.clip(np.minimum(high, start + size) - np.maximum(low, start), 0, size) / size
    area = span[:, :, 0, :, None] * span[:, :, 1, None, :] * (scenes.digit >= 0)[:, :, None, None]
    return area.reshape(len(scenes), CELLS, patches * patches).astype(np.float32)


def _backdrop(rng: np.random.Generator, count: int, level: Level, split: Split) -> NDArray[np.float32]:
    coarse = rng.random((count, 6, 6, 3), dtype=np.float32) * 0.45
    place = np.linspace(0, 5, CANVAS, dtype=np.float32)
    near = np.minimum(place.astype(np.int64), 4)
    weight = np.zeros((CANVAS, 6), np.float32)
    weight[np.arange(CANVAS), near], weight[np.arange(CANVAS), near + 1] = 1 - (place - near), place - near
    canvas: NDArray[np.float32] = np.einsum("hi,bijc,wj->bhwc", weight, coarse, weight, optimize=True)
    source, scene = digits(split).images, np.arange(count)[:, None, None]
    window = np.arange(_FRAGMENT)
    for _ in range(level.clutter):
        which = rng.integers(0, len(source), count)[:, None, None]
        cut = rng.integers(0, SIZE - _FRAGMENT + 1, (count, 2))
        fragment = source[which, cut[:, :1, None] + window[:, None], cut[:, 1:, None] + window]
        paint = np.clip(_RGB[rng.integers(0, len(COLORS), count)] + rng.normal(0, 0.05, (count, 3)), 0, 1)
        top, left = rng.integers(0, CANVAS - _FRAGMENT, (2, count))
        plate = (rng.random(count) < 0.5).astype(np.float32) * 0.55
        _stamp(canvas, top, left, np.broadcast_to(plate[:, None, None], fragment.shape), np.zeros_like(paint))
        _stamp(
            canvas,
            top,
            left,
            fragment * rng.uniform(0.4, 0.8, count).astype(np.float32)[scene[:, 0, 0], None, None],
            paint,
        )
    return canvas


def _stamp(canvas: NDArray, top: NDArray, left: NDArray, alpha: NDArray, paint: NDArray) -> None:
    """Blend `paint` `[scene, 3]` into each canvas at (`top`, `left`) with `alpha` `[scene, height, width]`."""
    scene = np.arange(len(canvas))[:, None, None]
    rows = top[:, None, None] + np.arange(alpha.shape[1])[:, None]
    columns = left[:, None, None] + np.arange(alpha.shape[2])
    here = alpha[..., None]
    canvas[scene, rows, columns] = canvas[scene, rows, columns] * (1 - here) + here * paint[:, None, None, :]
