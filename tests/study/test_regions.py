"""Regions of a sample on the grid of its vision tokens, against a slow count of points."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

from vtprune.core.task import Region, Sample, Video
from vtprune.study.regions import WHOLE, annotation, centre_crop, crop_of, within

IMAGE = Image.new("RGB", (8, 8))
shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def sample(*regions: Region, visuals: int = 1) -> Sample:
    return Sample("s", (*[IMAGE] * visuals, "what ?"), ("a",), regions=regions)


@given(horizontal=shares, vertical=shares, rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_share_of_area(horizontal: list[float], vertical: list[float], rows: int, columns: int) -> None:
    box = (horizontal[0], vertical[0], horizontal[1], vertical[1])
    found = annotation(sample(Region(0, box)), [(1, rows, columns)]).reshape(rows, columns)
    points = 40
    for row in range(rows):
        for column in range(columns):
            inside = sum(
                box[0] <= (column + (x + 0.5) / points) / columns < box[2]
                and box[1] <= (row + (y + 0.5) / points) / rows < box[3]
                for x in range(points)
                for y in range(points)
            )
            assert found[row, column].item() == pytest.approx(inside / points**2, abs=0.06)


def test_visuals_follow_one_another_and_overlaps_do_not_add() -> None:
    one = sample(Region(1, (0, 0, 0.5, 0.5)), Region(1, (0, 0, 1, 0.5)), visuals=2)
    assert annotation(one, [(1, 1, 3), (1, 2, 2)]).tolist() == [0, 0, 0, 1, 1, 0, 0]


def test_a_frame_of_a_video_and_all_of_them() -> None:
    video = Video((IMAGE,) * 8)
    content = (video, "what ?")
    third = Sample("s", content, ("a",), regions=(Region(0, (0, 0, 1, 1), frame=5),))
    assert annotation(third, [(4, 1, 2)]).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    always = Sample("s", content, ("a",), regions=(Region(0, (0, 0, 0.5, 1)),))
    assert annotation(always, [(2, 1, 2)]).tolist() == [1, 0, 1, 0]


def test_nothing_to_annotate() -> None:
    assert annotation(sample(visuals=0), []).shape == (0,)
    assert torch.equal(annotation(sample(), [(1, 2, 2)]), torch.zeros(4))


@pytest.mark.parametrize(
    ("picture", "options", "told"),
    [
        ((160, 80), {}, {}),
        ((70, 131), {}, {}),
        ((96, 96), {"size": {"shortest_edge": 64}}, {}),
        ((160, 80), {"size": {"height": 60, "width": 60}}, {}),
        ((160, 80), {"do_resize": False}, {}),
        ((40, 30), {"do_resize": False}, {}),
        ((160, 80), {}, {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
        ((160, 80), {"size": {"height": 48, "width": 48}, "do_center_crop": False}, {}),
        ((160, 80), {"do_pad": True}, {}),
        ((71, 130), {"do_pad": True, "size": {"height": 48, "width": 48}, "do_center_crop": False}, {}),
        ((160, 80), {"do_pad": True, "size": {"shortest_edge": 60}}, {}),
    ],
)
@pytest.mark.parametrize("box", [(0.4, 0.1, 0.7, 0.6), (0.0, 0.0, 0.2, 0.3), (0.1, 0.55, 0.9, 1.0)])
def test_regions_go_through_the_processors_padding_and_centre_crop(
    picture: tuple[int, int], options: dict[str, Any], told: dict[str, Any], box: tuple[float, float, float, float]
) -> None:
    """Reference: a picture that is white in the box and black elsewhere, as the processor shows it to the model."""
    size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}, **options}
    kind = LlavaImageProcessorPil if "do_pad" in options else CLIPImageProcessorPil
    images = kind(do_normalize=False, do_convert_rgb=True, image_mean=[0, 0, 0], **size)
    fine = np.zeros((picture[1], picture[0], 3), dtype=np.uint8)
    left, top, right, bottom = (round(share * side) for share, side in zip(box, picture * 2, strict=True))
    fine[top:bottom, left:right] = 255
    painted = Image.fromarray(fine)
    exact = (left / picture[0], top / picture[1], right / picture[0], bottom / picture[1])
    pixels = images(painted, return_tensors="pt", **told)["pixel_values"][0].mean(0)
    cell = pixels.shape[0] // 6
    expected = pixels.reshape(6, cell, 6, cell).mean((1, 3)).flatten()
    one = Sample("s", (painted, "what ?"), ("a",), regions=(Region(0, exact),))
    crop = crop_of(painted, SimpleNamespace(image_processor=images), told)
    assert (crop == WHOLE) == (not images.do_center_crop and "do_pad" not in options)
    assert torch.allclose(annotation(one, [(1, 6, 6)], [crop]), expected.float(), atol=0.12)


def test_what_is_not_known_to_be_cut_is_whole() -> None:
    cuts = {"do_center_crop": True, "do_resize": True, "crop_size": {"height": 8, "width": 8}}

    def crop(visual: Image.Image | Video = IMAGE, **options: Any) -> Any:
        return crop_of(visual, SimpleNamespace(image_processor=SimpleNamespace(**cuts, **options)))

    assert crop(size={"shortest_edge": 16}) == (0.25, 0.25, 0.75, 0.75)
    assert crop(Video((IMAGE,)), size={"shortest_edge": 16}) == WHOLE
    assert crop(size={"shortest_edge": 16}, image_grid_pinpoints=[[8, 16]]) == WHOLE
    assert crop(size={"max_height": 16, "max_width": 16}) == WHOLE
    assert crop_of(IMAGE, SimpleNamespace()) == WHOLE


def test_a_box_outside_the_crop_is_gone() -> None:
    half = centre_crop((16, 8), (8, 8))
    assert half == (0.25, 0, 0.75, 1)
    assert within((0, 0, 0.25, 1), half) is None
    assert within((0.5, 0.25, 1, 0.5), half) == (0.5, 0.25, 1, 0.5)
