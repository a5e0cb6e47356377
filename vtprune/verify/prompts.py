"""The prompts of the modes, made by a tiny model's own maker of inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from vtprune.testing.models.tiny import Inputs, Tiny

SHORT = (2, 3)
"""Little text, so that an image is still inside a sliding window while tokens are generated."""


class NotApplicable(Exception):
    """The family, or the tiny model of it, has nothing that the mode could be tried on; the message says what."""


def single(tiny: Tiny) -> Inputs:
    """One sample with one image."""
    return tiny.make_inputs((1,), text=SHORT)


def padded(tiny: Tiny) -> Inputs:
    """Four samples with 1, 2, 0 and 1 images, padded on the left."""
    return tiny.make_inputs((1, 2, 0, 1), text=SHORT)


def padded_right(tiny: Tiny) -> Inputs:
    """The same, padded on the right."""
    return tiny.make_inputs((1, 2, 0, 1), side="right", text=SHORT)


def several_images(tiny: Tiny) -> Inputs:
    """One sample with two images and little text between them."""
    return tiny.make_inputs((2,), seed=3, text=(1, 2))


def interleaved(tiny: Tiny) -> Inputs:
    """Two samples, three and two images, with longer runs of text before, between and after them."""
    return tiny.make_inputs((3, 2), seed=5, text=(5, 9))


def video(tiny: Tiny) -> Inputs:
    """A sample with an image and a video, and one with a video alone; videos only where the unhooked model does not
    take both in one call (GLM-V)."""
    if "videos" not in inspect.signature(tiny.make_inputs).parameters:
        raise NotApplicable("no video among the inputs of its tiny model")
    try:
        inputs = tiny.make_inputs((1, 0), videos=(1, 1))
    except NotImplementedError as error:
        raise NotApplicable(str(error) or "no video among the inputs of its tiny model") from None
    try:
        with torch.no_grad():
            tiny.model(**inputs)
    except ValueError:
        return tiny.make_inputs((0, 0), videos=(1, 1))
    return inputs


def pair(tiny: Tiny) -> Inputs:
    """Two samples of one image each: transformers up to 5.17 gives the beams of a sample one another's images where
    samples hold different numbers of them."""
    return tiny.make_inputs((1, 1), seed=4, text=SHORT)


def repeating(tiny: Tiny) -> Inputs:
    """One sample whose end repeats earlier text, so that prompt lookup finds drafts."""
    inputs = dict(tiny.make_inputs((1,), text=(6, 6)))
    echo = torch.tensor([[9, 10, 11, 12, 13, 9, 10, 11]])
    shape = inputs["input_ids"].shape
    for name, tensor in inputs.items():
        if tensor.shape == shape:
            filler = {"input_ids": echo, "attention_mask": torch.ones_like(echo)}.get(name, torch.zeros_like(echo))
            inputs[name] = torch.cat([tensor, filler.to(tensor.dtype)], 1)
    return inputs


Prompt = Callable[[Tiny], Inputs]
