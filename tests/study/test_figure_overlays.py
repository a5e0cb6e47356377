"""Pictures of what was kept: whose pixels, how bright, and what is said where it is not known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.study.frames import FakeCell, FakeResults, fake_results, scores_of
from vtprune.core.task import Sample, Task
from vtprune.study.figures import overlays

WHOLE_TWICE = [[0.0, 0.0, 1.0, 1.0]] * 2


class Squares(Task):
    """Two images of one colour each."""

    def samples(self) -> Iterator[Sample]:
        images = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
        for index in range(3):
            yield Sample(f"q{index:03d}", (*images, "what colour?"), ("red",))


def overlay_results(grids: list[list[int]] | None, crops: Any = WHOLE_TWICE) -> FakeResults:
    found = fake_results([FakeCell("full", scores_of([1, 1, 1]), "full"), FakeCell("a", scores_of([1, 0, 1]))])
    found.samples["vision_tokens"] = 32
    recorded = ["/a/" in cell and i < 2 for cell, i in zip(found.samples["cell"], found.samples["index"], strict=True)]
    found.samples["kept"] = pd.Series([[0, 5, 17] if one else None for one in recorded], dtype=object)
    found.samples["grids"] = pd.Series([grids if one else None for one in recorded], dtype=object)
    found.samples["crops"] = pd.Series([crops if one else None for one in recorded], dtype=object)
    return found


SQUARE = [[1, 4, 4], [1, 4, 4]]


def test_kept_tokens_lie_row_by_row_and_run_on_over_images() -> None:
    found = overlay_results(SQUARE)
    drawn, notes = overlays.overlays(Squares(), found.cells, found.samples)
    assert notes == []
    assert [(overlay.sample, [panel.variant for panel in overlay.panels]) for overlay in drawn] == [
        ("q000", ["a"]),
        ("q001", ["a"]),
    ]
    panel = drawn[0].panels[0]
    assert (panel.kept, panel.total, panel.answer) == (3, 32, "yes")
    first, second = (np.asarray(picture).astype(int) for picture in panel.pictures)
    cell = first.shape[0] // 4
    centres = [(row * cell + cell // 2, column * cell + cell // 2) for row in range(4) for column in range(4)]
    bright = [
        [index for index, at in enumerate(centres) if image[at][channel] > 200]
        for image, channel in ((first, 0), (second, 2))
    ]
    assert bright == [[0, 5], [1]]


def test_tokens_are_as_bright_as_the_share_of_layers_and_heads_that_keep_them() -> None:
    found = overlay_results(SQUARE)
    shares = [1.0, 0.5, 0.25, 0.0] * 8
    kept = found.samples["kept"].notna()
    found.samples["kept"] = pd.Series([list(range(32)) if one else None for one in kept], dtype=object)
    found.samples["kept_share"] = pd.Series([shares if one else None for one in kept], dtype=object)
    drawn, notes = overlays.overlays(Squares(), found.cells, found.samples)
    assert notes == []
    panel = drawn[0].panels[0]
    assert panel.share == pytest.approx(np.mean(shares))
    first = np.asarray(panel.pictures[0]).astype(int)
    side = first.shape[0] // 4
    middle = first[side // 2, side // 2 :: side]
    assert (np.diff(middle[:, 0]) < 0).all()  # less and less red
    assert middle[0, 0] > 240
    text = overlays.draw_overlay(drawn[0]).axes[0].get_xlabel()
    assert "44 % of the cache" in text
    assert "32 of 32" not in text
    found.samples["kept_share"] = None  # of an earlier version
    (earlier, _), _ = overlays.overlays(Squares(), found.cells, found.samples)
    assert earlier.panels[0].share is None
    assert "32 of 32 tokens" in overlays.draw_overlay(earlier).axes[0].get_xlabel()


def test_pictures_have_the_shape_of_the_models_grid() -> None:
    found = overlay_results([[1, 2, 8], [1, 8, 2]])
    drawn, notes = overlays.overlays(Squares(), found.cells, found.samples)
    assert notes == []
    assert [picture.width / picture.height for picture in drawn[0].panels[0].pictures] == [4, 0.25]


class Banner(Task):
    """A red quarter on the left of a green banner."""

    def samples(self) -> Iterator[Sample]:
        image = Image.new("RGB", (160, 40), (0, 255, 0))
        image.paste((255, 0, 0), (0, 0, 40, 40))
        for index in range(3):
            yield Sample(f"q{index:03d}", (image, "what colour?"), ("red",))


def banner_results(crops: Any) -> FakeResults:
    found = overlay_results([[1, 4, 4]], crops)
    found.samples["vision_tokens"] = 16
    found.samples["kept"] = [None if kept is None else list(range(16)) for kept in found.samples["kept"]]
    return found


def colours(picture: Image.Image) -> list[str]:
    """Of the four columns of a 4 x 4 grid: red, green or, where there is no picture, black."""
    side = picture.width // 4
    seen = [np.array(picture.getpixel((side * column + side // 2, picture.height // 8 * 3))) for column in range(4)]
    return ["black" if colour.max() < 99 else ("red", "green")[int(colour.argmax())] for colour in seen]


@pytest.mark.parametrize(
    ("crops", "expected"),
    [
        ([[0, 0, 1, 1]], ["red", "green", "green", "green"]),
        ([[0.375, 0, 0.625, 1]], ["green"] * 4),
        (np.array([[0, 0, 0.5, 1]]), ["red", "red", "green", "green"]),
        ([[-0.5, -3.5, 1.5, 4.5]], ["black", "black", "black", "black"]),
        ([[-0.25, 0, 0.75, 1]], ["black", "red", "green", "green"]),
    ],
)
def test_pictures_show_what_the_model_saw_of_them(crops: Any, expected: list[str]) -> None:
    found = banner_results(crops)
    drawn, notes = overlays.overlays(Banner(), found.cells, found.samples)
    assert notes == []
    (picture,) = drawn[0].panels[0].pictures
    assert picture.width == picture.height
    assert colours(picture) == expected


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_results_that_do_not_say_what_was_seen_are_drawn_whole_and_that_is_said(missing: Any) -> None:
    found = banner_results(missing)
    drawn, notes = overlays.overlays(Banner(), found.cells, found.samples)
    assert [colours(overlay.panels[0].pictures[0]) for overlay in drawn] == [["red", "green", "green", "green"]] * 2
    (note,) = notes
    assert note.startswith("Samples q000, q001: the results do not say which part of a picture the model saw")
    assert "as if it saw all of it" in note


def test_crops_of_other_visuals_are_not_drawn() -> None:
    found = banner_results(WHOLE_TWICE)
    drawn, notes = overlays.overlays(Banner(), found.cells, found.samples)
    assert drawn == []
    assert "crops of 2 visuals do not fit 1" in notes[0]


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        (None, "the grid of its 32 vision tokens is not known"),
        (float("nan"), "is not known"),
        ([[1, 4, 8]], "grids 1 x 4 x 8 do not fit 32 vision tokens of 2 visuals"),
        ([[1, 4, 4], [1, 4, 5]], "do not fit"),
    ],
)
def test_what_has_no_known_grid_is_said_and_not_drawn(grids: Any, words: str) -> None:
    found = overlay_results(grids)
    drawn, notes = overlays.overlays(Squares(), found.cells, found.samples)
    assert drawn == []
    assert [words in note for note in notes] == [True, True]


def test_a_sample_that_is_gone_is_said() -> None:
    found = overlay_results(SQUARE)
    found.samples["sample"] = "x" + found.samples["sample"]
    drawn, notes = overlays.overlays(Squares(), found.cells, found.samples)
    assert drawn == []
    assert "no longer has it" in notes[0]


# -- files
