"""Images that stand in a batch several times, encoded once: the same answers, the same signals, the same costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import vtprune
from tests.exactness.helpers import distance, generate
from vtprune.adapters import llava
from vtprune.core import lookup
from vtprune.core.errors import BindingError
from vtprune.testing.models import Inputs, Tiny, tiny_llava, tiny_qwen2_5_vl

NAMES = ("llava", "qwen")
STAGE = {
    "site": "vision.output",
    "scorer": {"name": "cls_attention", "query": "received"},
    "budget": 0.5,
    "reducer": {"name": "merge"},
}


def tiny(name: str) -> Tiny:
    return tiny_llava() if name == "llava" else tiny_qwen2_5_vl()


def shared_inputs(name: str) -> Inputs:
    """Four samples with the images A, B, A, A."""
    model = tiny(name)
    if name == "llava":
        inputs = model.make_inputs((1, 1, 1, 1), seed=3)
        pixels = inputs["pixel_values"]
        inputs["pixel_values"] = pixels[[0, 1, 0, 0]]
        return inputs
    grid, other = (1, 4, 8), (1, 8, 4)
    inputs = model.make_inputs((1, 1, 1, 1), grids=(grid, other, grid, grid), seed=3)
    images = list(inputs["pixel_values"].split(32))
    inputs["pixel_values"] = torch.cat([images[0], images[1], images[0], images[0]])
    return inputs


def seen_by_tower(name: str, inputs: Inputs, **options: Any) -> tuple[list[int], Any, Any]:
    """Rows that entered the first vision layer in each call, the generation, and the report."""
    model = tiny(name).model
    rows: list[int] = []
    with vtprune.prune(model, {"stages": [STAGE]}, **options) as run:
        tower = run._engine.parts.vision_layers[0]
        handle = tower.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append((args[0] if args else kwargs["hidden_states"]).shape[:-1].numel()),
            with_kwargs=True,
        )
        try:
            return rows, generate(model, inputs, 6), run.report
        finally:
            handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_each_image_is_encoded_once_and_nothing_else_changes(name: str) -> None:
    inputs = shared_inputs(name)
    apart, expected, report = seen_by_tower(name, inputs)
    once, made, shared = seen_by_tower(name, inputs, share_images=True)
    assert sum(once) * 2 == sum(apart)
    assert torch.equal(made.tokens, expected.tokens)
    assert distance(made.logits, expected.logits) < 1e-5
    for one, other in zip(shared.events, report.events, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.kept, other.kept, strict=True))
    assert shared.flops_parts["vision"] == report.flops_parts["vision"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_one_image_changed_in_one_bit_is_another_image(name: str) -> None:
    inputs = shared_inputs(name)
    pixels = inputs["pixel_values"].clone()
    pixels[-1].view(-1)[-1] += 1e-3
    inputs["pixel_values"] = pixels
    once, made, _ = seen_by_tower(name, inputs, share_images=True)
    apart, expected, _ = seen_by_tower(name, inputs)
    assert sum(once) * 4 == sum(apart) * 3
    assert distance(made.logits, expected.logits) < 1e-5


def test_equal_patches_in_another_grid_are_another_image() -> None:
    """A is 4 x 8 patches; the same patches as 8 x 4 are a different picture."""
    model = tiny_qwen2_5_vl()
    inputs = model.make_inputs((1, 1), grids=((1, 4, 8), (1, 8, 4)), seed=3)
    inputs["pixel_values"] = inputs["pixel_values"][:32].repeat(2, 1)
    once, *_ = seen_by_tower("qwen", inputs, share_images=True)
    assert sum(once) == 64


def test_a_family_without_unique_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "find_adapter", lambda *asked: replace(llava.ADAPTER, unique=None))
    with pytest.raises(BindingError, match="share_images: adapter 'llava' does not say which images"):
        vtprune.prune(tiny_llava().model, {"stages": [STAGE]}, share_images=True)
