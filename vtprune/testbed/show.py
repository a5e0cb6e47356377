"""Pictures of the testbed's samples: what is asked, what the answer is, and where it can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from vtprune.core.task import Sample, Video
from vtprune.testbed.scenes import CANVAS
from vtprune.testbed.sequences import FRAMES_PER_MOMENT
from vtprune.testbed.tasks import Testbed

_ACROSS: Final = {"image": (4, 5), "pair": (3, 4), "video": (2, 4)}
"""Questions side by side and screen pixels per pixel of a scene, by variant."""
_MARGIN, _GAP, _LINE = 24, 20, 22
_INK, _PALE, _ANSWER = "#1d1d1f", "#6e6e73", "#0a6b3d"


def draw(task: Testbed, scenes: int) -> Image.Image:
    """The first scenes of a task, a row each; a row shows one scene once for each of its first questions, with the
    regions of that question's answer outlined. Whole moments of a video that the answer does not need are dimmed."""
    across, scale = _ACROSS[task.variant]
    rows = [list(islice(group, across)) for _, group in islice(groupby(task.samples(), lambda one: one.group), scenes)]
    panels = [[_panel(sample, scale) for sample in row] for row in rows]
    width, height = panels[0][0].size
    columns = max(map(len, panels))
    step = height + _GAP + _LINE
    sheet = Image.new(
        "RGB", (2 * _MARGIN + columns * (width + _GAP) - _GAP, 2 * _MARGIN + len(rows) * step - _GAP), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for number, (samples, pictures) in enumerate(zip(rows, panels, strict=True)):
        top = _MARGIN + number * step
        pen.text((_MARGIN, top), f"scene {samples[0].group}", fill=_PALE, font=_font(13))
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (_MARGIN + column * (width + _GAP), top + _LINE))
    return sheet


def _panel(sample: Sample, scale: int) -> Image.Image:
    """One question: its visuals with outlines, then its type, its words and its answer."""
    shots = _shots(sample)
    side = CANVAS * scale
    panel = Image.new("RGB", (len(shots) * (side + 4) - 4, side + 3 * _LINE + 4), "white")
    marked = {_shot(region.visual, region.frame) for region in sample.regions}
    for index, shot in enumerate(shots):
        large = shot.resize((side, side), Image.Resampling.NEAREST)
        if marked and index not in marked:
            large = Image.blend(large, Image.new("RGB", large.size, "white"), 0.55)
        pen = ImageDraw.Draw(large)
        for region in sample.regions:
            if _shot(region.visual, region.frame) == index:
                _outline(pen, [edge * side for edge in region.box])
        panel.paste(large, (index * (side + 4), 0))
    pen = ImageDraw.Draw(panel)
    question = sample.content[-1]
    assert isinstance(question, str)
    pen.text((0, side + 6), sample.type, fill=_PALE, font=_font(12))
    pen.text((0, side + 6 + _LINE - 4), question, fill=_INK, font=_fitting(question, panel.width))
    answer = f"answer: {sample.references[0]}"
    pen.text((0, side + 6 + 2 * _LINE - 4), answer, fill=_ANSWER, font=_fitting(answer, panel.width))
    return panel


def _shots(sample: Sample) -> list[Image.Image]:
    """One picture for each image, or for each moment of a video."""
    shots: list[Image.Image] = []
    for visual in sample.visuals:
        shots += visual.frames[::FRAMES_PER_MOMENT] if isinstance(visual, Video) else [visual]
    return shots


def _shot(visual: int, frame: int | None) -> int:
    return visual if frame is None else frame // FRAMES_PER_MOMENT


def _outline(pen: ImageDraw.ImageDraw, box: Sequence[float]) -> None:
    """Black, white, black, so that it shows on every colour."""
    left, top, right, bottom = (round(edge) for edge in box)
    for grow, color in ((2, "black"), (1, "white"), (0, "white"), (-1, "black")):
        pen.rectangle((left - grow, top - grow, right - 1 + grow, bottom - 1 + grow), outline=color)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(text: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font from 15 to 9 in which the text is no wider than `width`."""
    return next((font for font in map(_font, range(15, 9, -1)) if font.getlength(text) <= width), _font(9))
