"""Kept tokens drawn over the images: a run report as a picture.

Kept tokens stay in colour; dropped ones become grey and dark, and a bright line runs between the two, so that nothing
depends on telling hues apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vtprune.core.errors import ReportError
from vtprune.core.tables import method

if TYPE_CHECKING:
    from vtprune.core.layout import Segment
    from vtprune.core.report import Report

Fit = Literal["crop", "stretch"]
MAX_LAYERS, MAX_HEADS, PER_ROW = 16, 8, 4
LARGE, SMALL = 384, 144
MARGIN, GAP = 16, 8
INK, PAPER, BORDER = (32, 32, 32), (255, 255, 255), (255, 159, 0)
DARK = (24, 28, 36)


@dataclass(frozen=True)
class _Matrix:
    """A block of tiles, row by row, with optional labels of rows and columns. ``tiles`` holds (picture, caption)."""

    tiles: list[list[tuple[Image.Image, str]]]
    rows: list[str]
    columns: list[str]


def overlay(
    report: Report,
    images: Sequence[Image.Image],
    path: str | Path | None = None,
    sample: int = 0,
    fit: Fit = "crop",
) -> Image.Image:
    """Draw what each stage kept of one sample, and save the picture if ``path`` is given.

    One panel per stage. A stage that drops tokens shows each image once for each of its layers; a ``.kv`` stage shows
    small multiples, a row for each layer and a column for each KV head, at most 16 by 8 of them, evenly chosen. A video
    shows its frames.

    images: the pictures of the sample in prompt order; ``images[j]`` is drawn under segment j of its layout.
    fit: how the model sees a picture whose shape is not that of its token grid. ``crop`` cuts the centre out, which is
        what CLIP processors do (resize the shorter edge, then cut a square); ``stretch`` scales it to fit, which is
        what Qwen2.5-VL does.
    Raises ReportError if the sample, or a stage's action on it, is missing, if it has another number of images than
    given, if a segment has no grid, or if the sample has no image.
    """
    if not 0 <= sample < len(report.layouts):
        raise ReportError(f"sample {sample} does not exist; the batch has {len(report.layouts)} samples")
    segments = report.layouts[sample].segments
    if not segments:
        raise ReportError(f"sample {sample} has no image to draw on")
    if len(images) != len(segments):
        raise ReportError(f"sample {sample} has {len(segments)} images, but {len(images)} were given")
    for segment in segments:
        if segment.grid is None:
            raise ReportError(f"segment {segment.index} of sample {sample} has no grid, so its tokens have no place")
    panels: list[tuple[str, list[_Matrix]]] = []
    for stage, parts in enumerate(report.recipe.stages):
        if parts.site.kind == "kv":
            matrices, shown = _heads_by_layers(report, images, stage, sample, fit)
        else:
            matrices, shown = _layer_by_layer(report, images, stage, sample, fit)
        kept = len(report.kept(stage, sample))
        total = report.layouts[sample].vision
        union = " in some layer or head" if parts.site.kind == "kv" else ""
        caption = f"{report.recipe.name}, stage {stage} at {parts.site}: {method(parts)}\n"
        panels.append((f"{caption}kept {kept} of {total} vision tokens{union}{shown}", matrices))
    picture = _compose(panels)
    if path is not None:
        picture.save(path)
    return picture


def _layer_by_layer(
    report: Report, images: Sequence[Image.Image], stage: int, sample: int, fit: Fit
) -> tuple[list[_Matrix], str]:
    """Tiles of a stage that drops tokens: images (and frames) of one layer after the other, up to four in a row."""
    layers = _layers(report, stage, sample)
    chosen = evenly(layers, MAX_LAYERS)
    frames = [frame for segment in report.layouts[sample].segments for frame in _frames(segment)]
    side = LARGE if len(chosen) * len(frames) <= PER_ROW else LARGE // 2
    tiles = []
    for layer in chosen:
        kept = set(report.kept(stage, sample, layer))
        for segment, frame in frames:
            picture, count, size = tile(images[segment.index], segment, frame, kept, side, fit)
            where = f"layer {layer}, " if len(layers) > 1 else ""
            tiles.append((picture, f"{where}{_name(segment, frame)}: {count}/{size}"))
    width = PER_ROW // len(frames) * len(frames) or PER_ROW
    rows = [tiles[start : start + width] for start in range(0, len(tiles), width)]
    return [_Matrix(rows, [], [])], _shown(len(chosen), len(layers), "layers")


def _heads_by_layers(
    report: Report, images: Sequence[Image.Image], stage: int, sample: int, fit: Fit
) -> tuple[list[_Matrix], str]:
    """Small multiples of a ``.kv`` stage: for each image (or frame) a row per layer and a column per KV head."""
    layers = _layers(report, stage, sample)
    chosen = evenly(layers, MAX_LAYERS)
    events = [event for event in report.stage_events(stage) if event.sample == sample]
    per_head = any(len(event.kept) > 1 for event in events)
    every = list(range(report.kv_heads)) if per_head else []
    heads = evenly(every, MAX_HEADS)
    columns: list[int | None] = [*heads] or [None]
    several = sum(1 for segment in report.layouts[sample].segments for _ in _frames(segment)) > 1
    matrices = []
    for segment in report.layouts[sample].segments:
        for _, frame in _frames(segment):
            rows = []
            for layer in chosen:
                row = []
                for head in columns:
                    kept = set(report.kept(stage, sample, layer, head))
                    picture, count, size = tile(images[segment.index], segment, frame, kept, SMALL, fit)
                    row.append((picture, f"{count}/{size}"))
                rows.append(row)
            prefix = f"{_name(segment, frame)}, " if several else ""
            names = [f"KV head {head}" for head in heads] or ["all KV heads"]
            matrices.append(_Matrix(rows, [f"{prefix}layer {layer}" for layer in chosen], names))
    shown = _shown(len(chosen), len(layers), "layers") + _shown(len(heads), len(every), "KV heads")
    return matrices, shown


def _layers(report: Report, stage: int, sample: int) -> list[int]:
    layers = sorted({event.layer for event in report.stage_events(stage) if event.sample == sample})
    if not layers:
        raise ReportError(f"stage {stage} has not acted on sample {sample} yet; run the model first")
    return layers


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(step * (len(items) - 1) / (most - 1))] for step in range(most)]


def _shown(shown: int, total: int, what: str) -> str:
    return f"; {shown} of {total} {what} shown" if shown < total else ""


def _frames(segment: Segment) -> list[tuple[Segment, int]]:
    assert segment.grid is not None
    return [(segment, frame) for frame in range(segment.grid[0])]


def _name(segment: Segment, frame: int) -> str:
    assert segment.grid is not None
    name = f"{segment.kind} {segment.index}"
    return f"{name}, frame {frame}" if segment.grid[0] > 1 else name


def tile(
    image: Image.Image, segment: Segment, frame: int, kept: set[int], side: int, fit: Fit
) -> tuple[Image.Image, int, int]:
    """One frame of one image with its dropped tokens darkened; how many tokens it kept, and of how many."""
    assert segment.grid is not None
    _, height, width = segment.grid
    first = segment.start + frame * height * width
    mask = np.array([first + index in kept for index in range(height * width)]).reshape(height, width)
    cell = max(2, side // max(height, width))
    size = (width * cell, height * cell)
    rgb = image.convert("RGB")
    clear = ImageOps.fit(rgb, size) if fit == "crop" else rgb.resize(size)
    dim = Image.blend(ImageOps.grayscale(clear).convert("RGB"), Image.new("RGB", size, DARK), 0.72)
    light = Image.fromarray(np.kron(mask, np.ones((cell, cell), dtype=bool)).astype(np.uint8) * 255)
    picture = Image.composite(clear, dim, light)
    draw = ImageDraw.Draw(picture, "RGBA")
    for row, column in np.argwhere(mask).tolist():
        left, top = column * cell, row * cell
        right, bottom = left + cell - 1, top + cell - 1
        if cell >= 8:
            draw.rectangle((left, top, right, bottom), outline=(255, 255, 255, 70))
        if row and not mask[row - 1, column]:
            draw.line((left, top, right, top), fill=BORDER)
        if row + 1 < height and not mask[row + 1, column]:
            draw.line((left, bottom, right, bottom), fill=BORDER)
        if column and not mask[row, column - 1]:
            draw.line((left, top, left, bottom), fill=BORDER)
        if column + 1 < width and not mask[row, column + 1]:
            draw.line((right, top, right, bottom), fill=BORDER)
    return picture, int(mask.sum()), height * width


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _extent(text: str, size: int) -> int:
    return max(int(_font(size).getlength(line)) + 1 for line in text.split("\n"))


def _compose(panels: list[tuple[str, list[_Matrix]]]) -> Image.Image:
    """All panels under each other, each below its caption."""
    blocks = [(caption, [_matrix(matrix) for matrix in matrices]) for caption, matrices in panels]
    inner = max(520, *(block.width for _, matrices in blocks for block in matrices))
    captions = [_wrap(caption, 15, inner) for caption, _ in blocks]
    heights = [
        20 * (text.count("\n") + 1) + sum(block.height + GAP for block in matrices)
        for text, (_, matrices) in zip(captions, blocks, strict=True)
    ]
    picture = Image.new("RGB", (inner + 2 * MARGIN, sum(heights) + MARGIN * (len(heights) + 1)), PAPER)
    draw = ImageDraw.Draw(picture)
    top = MARGIN
    for text, (_, matrices), height in zip(captions, blocks, heights, strict=True):
        draw.multiline_text((MARGIN, top), text, fill=INK, font=_font(15), spacing=4)
        below = top + 20 * (text.count("\n") + 1) + GAP // 2
        for block in matrices:
            picture.paste(block, (MARGIN, below))
            below += block.height + GAP
        top += height + MARGIN
    return picture


def _wrap(text: str, size: int, width: int) -> str:
    """Break lines at spaces so that none is wider than ``width`` pixels, unless a single word is."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and _extent(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(lines)


def _matrix(matrix: _Matrix) -> Image.Image:
    """Tiles with a caption below each; every column is as wide as its widest tile or label."""
    text = 12 if matrix.rows else 14
    line = text + 5
    count = max(len(row) for row in matrix.tiles)
    columns = [
        max(
            [max(row[c][0].width, _extent(row[c][1], text)) for row in matrix.tiles if c < len(row)]
            + [_extent(label, text) for label in matrix.columns[c : c + 1]]
        )
        for c in range(count)
    ]
    left = max((_extent(label, text) + GAP for label in matrix.rows), default=0)
    top = line if matrix.columns else 0
    rows = [max(tile.height for tile, _ in row) + line + GAP for row in matrix.tiles]
    picture = Image.new("RGB", (left + sum(columns) + GAP * (count - 1), top + sum(rows) - GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    starts = [left + sum(columns[:c]) + GAP * c for c in range(count)]
    for label, x in zip(matrix.columns, starts, strict=False):
        draw.text((x, 0), label, fill=INK, font=_font(text))
    y = top
    for r, row in enumerate(matrix.tiles):
        if matrix.rows:
            middle = y + (rows[r] - line - GAP) // 2
            draw.text((0, middle), matrix.rows[r], fill=INK, font=_font(text), anchor="lm")
        for (tile, caption), x in zip(row, starts, strict=False):
            picture.paste(tile, (x, y))
            draw.text((x, y + tile.height + 2), caption, fill=INK, font=_font(text))
        y += rows[r]
    return picture
