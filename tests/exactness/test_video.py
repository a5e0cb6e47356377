"""A video and an image in one prompt (Qwen2.5-VL): segments, grids and exactness."""

from __future__ import annotations

import pytest
import torch

import vtprune
from vtprune.testing.models import tiny_qwen2_5_vl
from vtprune.testing.reference import MaskedReference, from_layer, greedy_steps

VIDEO_GRID, IMAGE_GRID = (3, 4, 6), (1, 4, 4)


def dialogue(model):
    """A prompt with a video of three frames (18 tokens) followed by an image (4 tokens)."""
    config, tower = model.config, model.config.vision_config
    video, image = config.video_token_id, config.image_token_id
    start, end = config.vision_start_token_id, config.vision_end_token_id
    ids = torch.tensor([[5, 6, start, *[video] * 18, end, 7, start, *[image] * 4, end, 8, 9, 10]])
    kinds = torch.zeros_like(ids).masked_fill(ids == image, 1).masked_fill(ids == video, 2)
    generator = torch.Generator().manual_seed(0)
    width = 3 * tower.temporal_patch_size * tower.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": kinds,
        "pixel_values": torch.randn(16, width, generator=generator),
        "image_grid_thw": torch.tensor([IMAGE_GRID]),
        "pixel_values_videos": torch.randn(72, width, generator=generator),
        "video_grid_thw": torch.tensor([VIDEO_GRID]),
    }


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_video_and_image_tokens_are_dropped_exactly(attn):
    model = tiny_qwen2_5_vl(attn).model
    inputs = dialogue(model)
    with vtprune.prune(model, "fastv", scope="image") as run:
        pruned = greedy_steps(model, inputs, 20)
    layout = run.report.layouts[0]
    assert [(s.kind, len(s), s.grid) for s in layout.segments] == [("video", 18, (3, 2, 3)), ("image", 4, (1, 2, 2))]
    kept = run.report.kept()
    assert (sum(token < 18 for token in kept), sum(token >= 18 for token in kept)) == (9, 2)
    keep = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    keep[0, layout.positions] = False
    keep[0, layout.positions[kept]] = True
    with MaskedReference(model, from_layer(model, keep, 2), {}):
        hidden = greedy_steps(model, inputs, 20)
    plain = greedy_steps(model, inputs, 20)
    assert torch.equal(pruned.tokens, hidden.tokens)
    for mine, theirs in zip(pruned.logits, hidden.logits, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert (pruned.prefill - plain.prefill).abs().max() > 0.1


def test_the_grid_counts_frames():
    model = tiny_qwen2_5_vl().model
    with vtprune.prune(model, "uniform_grid", budget=6) as run, torch.no_grad():
        model(**dialogue(model))
    coordinates = run.report.layouts[0].coordinates()[run.report.kept()]
    assert set(coordinates[coordinates[:, 0] == 0, 1].tolist()) == {0, 1, 2}
