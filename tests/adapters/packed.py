"""What the tests of the Qwen-like families share: the models, their prompts, and towers read without vtprune."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from vtprune.core.adapter import Modality, VisionCall
from vtprune.testing.models import Inputs, Tiny
from vtprune.testing.models.families import variant

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl-experts", "glm4v", "glm4v-experts", "glm46v")
BATCHES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "images": ((1, 2, 0, 1), None),
    "videos": ((0, 0), (2, 1)),
    "mixed": ((2, 1, 0), (1, 1, 1)),
}


def has(name: str, batch: str) -> bool:
    """GLM's videos use the images' placeholder, so that a batch cannot hold both."""
    return batch != "mixed" or not name.startswith("glm")


CASES = [(name, batch) for name in NAMES for batch in BATCHES if has(name, batch)]


def tiny(name: str, attn: Any = "sdpa") -> Tiny:
    return variant(name).make(attn)


def prompt(name: str, batch: str, seed: int = 0) -> Inputs:
    images, videos = BATCHES[batch]
    return tiny(name).make_inputs(images, videos=videos, seed=seed)


def modalities(inputs: Inputs) -> list[Modality]:
    found: list[Modality] = ["image", "video"]
    return [kind for kind in found if f"{kind}_grid_thw" in inputs]


def arguments(inputs: Inputs, kind: Modality) -> dict[str, Tensor]:
    names = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }[kind]
    return {name: inputs[name] for name in names}


def call_of(model: Any, inputs: Inputs, kind: Modality) -> VisionCall:
    """A call of the model's encoding method, as an adapter gets to see it."""
    given = arguments(inputs, kind)
    output = getattr(model.model, f"get_{kind}_features")(**given)
    return VisionCall(kind, given, output, tuple(output.pooler_output))


def kernel_calls(model: Any, inputs: Inputs, kind: Modality) -> list[list[Tensor]]:
    """Per vision layer the attention weights ``[head, patch, patch]`` of every call of an eager tower's kernel."""
    softmax, calls = torch.nn.functional.softmax, []

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        result = softmax(*args, **kwargs)
        calls[-1].append(result[0])
        return result

    with ExitStack() as stack:
        for block in model.model.visual.blocks:
            stack.callback(block.register_forward_pre_hook(lambda *_: calls.append([])).remove)
        stack.enter_context(patch("torch.nn.functional.softmax", recorded))
        call_of(model, inputs, kind)
    return calls


def made_of(model: Any, inputs: Inputs, kind: Modality, read_at: str) -> list[Tensor]:
    """For each image or video int64 ``[vision, unit]``: the rows that a token depends on if no patch attends to others.

    read_at: the module whose input's rows are meant: a vision block (with attention switched off) or the projector.
    """
    visual, leaves = model.model.visual, []

    def leaf(module: Any, args: Any, kwargs: Any) -> Any:
        leaves.append(args[0].detach().requires_grad_())
        return (leaves[-1], *args[1:]), kwargs

    with ExitStack() as stack, torch.enable_grad():
        module = visual.get_submodule(read_at)
        stack.callback(module.register_forward_pre_hook(leaf, with_kwargs=True).remove)
        for block in visual.blocks:
            stack.callback(block.attn.register_forward_hook(lambda module, args, output: output * 0).remove)
        output = getattr(model.model, f"get_{kind}_features")(**arguments(inputs, kind))
        images = []
        for features in output.pooler_output:
            rows = []
            for token in features:
                (slope,) = torch.autograd.grad(token.sum(), leaves[0], retain_graph=True)
                rows.append(slope.abs().sum(-1).nonzero()[:, 0])
            images.append(torch.stack(rows))
    assert len(leaves) == 1
    return images
