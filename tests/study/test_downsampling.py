"""The image-downsampling baseline on both kinds of family: fewer tokens, and the model as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import vtprune
from vtprune.core.task import Sample, Video
from vtprune.study.downsampling import Shrink, downsampled
from vtprune.study.prompts import encode
from vtprune.testbed import load_default, photo
from vtprune.testing.models import tiny_qwen2_5_vl


@pytest.mark.parametrize(("share", "side"), [(1.0, 24), (0.5, 17), (0.25, 12), (0.01, 2)])
def test_a_fixed_tower_gets_a_smaller_grid(share: float, side: int) -> None:
    model, processor = load_default()
    sample = Sample("s", (photo(), "What is it?"), ("cat",))
    with downsampled(model, processor, share) as shrink, vtprune.observe(model) as run:
        inputs = encode(processor, [shrink(sample)], shrink.images_kwargs)
        assert inputs["pixel_values"].shape[-2:] == (14 * side, 14 * side)
        with torch.inference_mode():
            model(**inputs)
        assert run.report.layouts[0].vision == side**2
        assert run.report.layouts[0].segments[0].grid == (1, side, side)
    with pytest.raises(ValueError, match="image size"), torch.inference_mode():
        model(**inputs) if side < 24 else model.model.vision_tower(torch.zeros(1, 3, 28, 28))


def test_all_pixels_change_nothing() -> None:
    model, processor = load_default()
    sample = Sample("s", (photo(), "What is it?"), ("cat",))
    plain = encode(processor, [sample])
    with torch.inference_mode():
        expected = model(**plain).logits
        with downsampled(model, processor, 1.0) as shrink:
            found = model(**plain).logits
    assert shrink.side(336) == 336
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_dynamic_tower_is_only_given_smaller_images() -> None:
    model = tiny_qwen2_5_vl().model
    with downsampled(model, None, 0.25) as shrink:
        assert shrink == Shrink(0.25, 8)
        small = shrink(Sample("s", (Image.new("RGB", (64, 32)), "what ?"), ("a",)))
    assert small.visuals[0].size == (32, 16)


def test_every_frame_of_a_video_shrinks_and_text_stays() -> None:
    frames = tuple(Image.new("RGB", (40, 40), (index, 0, 0)) for index in range(4))
    small = Shrink(0.25, 4)(Sample("s", ("see", Video(frames, 3.0), "what ?"), ("a",)))
    assert [frame.size for frame in small.visuals[0].frames] == [(20, 20)] * 4
    assert small.visuals[0].fps == 3.0
    assert small.text == "see what ?"
