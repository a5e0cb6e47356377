"""Regions of a sample on the grid of its vision tokens, against a slow count of points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtprune.core.task import Region, Sample, Video
from vtprune.study.regions import annotation

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
