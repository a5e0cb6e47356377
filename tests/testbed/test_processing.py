"""The processor for Qwen2.5-VL: shapes, batches, videos and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from training.testbed.families import MEAN, STD
from vtprune.testbed.processing import QwenProcessor


@pytest.fixture(scope="module")
def processor(mrope_folder: Path) -> QwenProcessor:
    return QwenProcessor.from_pretrained(mrope_folder)


def picture(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def test_images_of_several_sizes_and_prompts(processor: QwenProcessor) -> None:
    made = processor(
        text=[f"{IMAGE} what digit is red ?", f"first {IMAGE} second {IMAGE} which image has more digits ?"],
        images=[picture(0), picture(1, 24, 36), picture(2)],
    )
    assert made["image_grid_thw"].tolist() == [[1, 24, 24], [1, 18, 12], [1, 24, 24]]
    assert made["pixel_values"].shape == (576 + 216 + 576, 24)
    counts = (made["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert counts == [144, 54 + 144]
    assert torch.equal(made["mm_token_type_ids"] == 1, made["input_ids"] == processor.image_token_id)
    lengths = made["attention_mask"].sum(1)
    assert lengths.max() == made["input_ids"].shape[1]
    assert made["attention_mask"][0].tolist() == sorted(made["attention_mask"][0].tolist()), "padding on the left"


@pytest.mark.parametrize("frames", [8, 7])
def test_a_video_fuses_two_frames(processor: QwenProcessor, frames: int) -> None:
    clip = [picture(seed) for seed in range(frames)]
    made = processor(text=f"{VIDEO} when does the red 7 appear ?", videos=[clip], fps=4)
    assert made["video_grid_thw"].tolist() == [[4, 24, 24]]
    assert made["second_per_grid_ts"].tolist() == [0.5]
    assert (made["mm_token_type_ids"] == 2).sum() == 576
    whole = np.stack([np.asarray(frame) for frame in [*clip, clip[-1]][:8]])
    expected = rearrange(
        (whole / 255 - MEAN) / STD,
        "(time fused) (gh mh ph) (gw mw pw) color -> (time gh gw mh mw) (color fused ph pw)",
        fused=2,
        mh=2,
        mw=2,
        ph=2,
        pw=2,
    )
    assert np.allclose(made["pixel_values_videos"], expected, atol=1e-5)


def test_an_image_is_a_video_of_the_same_frame_twice(processor: QwenProcessor) -> None:
    still = processor(text=IMAGE, images=picture(3))["pixel_values"]
    assert torch.equal(still, processor(text=VIDEO, videos=[[picture(3)] * 2])["pixel_values_videos"])


def test_frames_per_second_come_from_either_argument(processor: QwenProcessor) -> None:
    clips = [[picture(0)] * 2, [picture(1)] * 4]
    text = [f"{VIDEO} ?", f"{VIDEO} ?"]
    for options in (
        {"fps": [1.0, 4.0]},
        {"video_metadata": [{"fps": 1.0}, {"fps": 4.0}]},
        {"video_metadata": [[SimpleNamespace(fps=1.0)], [SimpleNamespace(fps=4.0)]]},
    ):
        assert processor(text=text, videos=clips, **options)["second_per_grid_ts"].tolist() == [2.0, 0.5]
    assert processor(text=text, videos=[[clip] for clip in clips])["second_per_grid_ts"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="for each of 2 videos"):
        processor(text=text, videos=clips, fps=[1.0])


def test_placeholders_and_visuals_must_match(processor: QwenProcessor) -> None:
    with pytest.raises(ValueError, match=r"2 placeholders '<\|image_pad\|>', but 1 visuals"):
        processor(text=IMAGE * 2, images=picture(0))
    with pytest.raises(ValueError, match="0 placeholders"):
        processor(text="what ?", images=picture(0))


def test_what_it_does_not_do(processor: QwenProcessor) -> None:
    with pytest.raises(TypeError, match="max_pixels"):
        processor(text=IMAGE, images=picture(0), max_pixels=4)
    with pytest.raises(ValueError, match="PyTorch"):
        processor(text=IMAGE, images=picture(0), return_tensors="np")
    with pytest.raises(ValueError, match="does not tokenize"):
        processor.apply_chat_template([], tokenize=True)


def test_the_template_and_text_alone(processor: QwenProcessor) -> None:
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "where does the red digit move ?"}]}
    assert processor.apply_chat_template([turn]) == f"{VIDEO} where does the red digit move ?"
    assert processor.apply_chat_template([[turn], [{"role": "user", "content": "what ?"}]])[1] == "what ?"
    made = processor(text="what digit ?")
    assert set(made) == {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert processor.batch_decode(made["input_ids"], skip_special_tokens=True) == ["what digit ?"]


def test_the_folder_serves_transformers_own_classes(mrope_folder: Path, processor: QwenProcessor) -> None:
    own = Qwen2VLImageProcessorPil.from_pretrained(mrope_folder)
    assert (own.patch_size, own.merge_size, own.temporal_patch_size) == (2, 2, 2)
    made = own([picture(0)], return_tensors="pt")
    assert torch.equal(made["pixel_values"], processor(text=IMAGE, images=picture(0))["pixel_values"])
