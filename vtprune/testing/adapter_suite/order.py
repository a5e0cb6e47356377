"""Checks of the order of images and tokens, by what depends on which pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from vtprune.core.adapter import VisionInput
from vtprune.testing.adapter_suite.encoding import distinct, encode, gradients, leaves, projected
from vtprune.testing.adapter_suite.frame import adapter_check
from vtprune.testing.adapter_suite.trial import Encoded, Trial
from vtprune.testing.checking import fail


def _redrawn(trial: Trial, each: Encoded) -> Tensor:
    """bool ``[vision]``: the tokens whose features change when all pixels are others."""
    asked, floats = leaves(each.asked)
    with torch.no_grad():
        for value in floats.values():
            value.add_(torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) * (value != 0))
        other = encode(trial.model, asked)
    return (torch.cat(other.features) != torch.cat(each.call.features)).any(-1)


@adapter_check()
def check_adapter_row_ends_are_separators(trial: Trial) -> None:
    """With row_ends the grid's last column, and nothing else, is made of tokens that no pixel changes."""
    for each in trial.encoded("two"):
        changes = _redrawn(trial, each)
        if len(changes) != sum(image.tokens for image in each.images):
            continue  # lone separators are appended later; their number is checked elsewhere
        for number, (image, own) in enumerate(
            zip(each.images, changes.split([i.tokens for i in each.images]), strict=True)
        ):
            if image.grid is None:
                continue
            still = (~own).view(image.grid)
            expected = torch.zeros_like(still)
            if image.row_ends:
                expected[..., -1] = True
            if not torch.equal(still, expected):
                fail(
                    f"rectangle {number} with grid {image.grid} and row_ends={image.row_ends}: {int(still.sum())} of "
                    "its "
                    f"tokens depend on no pixel, {int(still[..., -1].sum())} of them in the last column; expected "
                    f"{int(expected.sum())}, all in the last column",
                    "`images`: `row_ends`, or height and width of the grid are exchanged",
                )


def _owned(image: VisionInput, values: Tensor) -> Tensor:
    """bool: which of these numbers are among the pixels that the adapter gives for a rectangle."""
    assert image.pixels is not None
    return torch.isin(values, image.pixels.detach().to(values))


@adapter_check()
def check_adapter_images_are_in_prompt_order(trial: Trial) -> None:
    """The tokens of an image depend on its own pixels alone, and those are the ones that `images` gives for it."""
    for name in ("two", "batch"):
        for each in trial.encoded(name):
            asked, floats = leaves(distinct(each.asked))
            call = encode(trial.model, asked)
            images = trial.adapter.images(trial.model, call)
            tokens, counts = projected(torch.cat(call.features)), [image.tokens for image in images]
            if len(tokens) != sum(counts):
                continue
            sums = torch.stack([own.sum() for own in tokens.split(counts)])
            touched = [
                torch.cat([(grad != 0).flatten() for grad in found]) for found in gradients(sums, list(floats.values()))
            ]
            _check_owners(images, touched, torch.cat([value.detach().flatten() for value in floats.values()]))


def _check_owners(images: list[VisionInput], touched: list[Tensor], pixels: Tensor) -> None:
    for number, (image, own) in enumerate(zip(images, touched, strict=True)):
        for other, (another, others) in enumerate(zip(images, touched, strict=True)):
            if image.image != another.image and bool((own & others & (pixels != 0)).any()):
                fail(
                    f"tokens of rectangles {number} and {other}, of images {image.image} and {another.image}, depend "
                    "on the "
                    f"same {int((own & others).sum())} pixels",
                    "`images`: the rectangles are not in the order of the placeholders, or `tokens` are wrong for some",
                )
        values = pixels[own & (pixels != 0)]
        if image.pixels is not None and not bool((known := _owned(image, values)).all()):
            fail(
                f"the tokens of rectangle {number} depend on {len(values)} pixels, of which {int((~known).sum())} "
                "are not "
                f"among those that images() gives for it",
                "`images`: the rectangles are not in the order of the placeholders, or `pixels` are another image's; "
                "random "
                "baselines are seeded with them",
            )
        alien = torch.cat(
            [
                pixels[:0],
                *(pixels[o & (pixels != 0)] for k, o in zip(images, touched, strict=True) if k.image != image.image),
            ]
        )
        if image.pixels is not None and len(alien) and bool((known := _owned(image, alien)).any()):
            fail(
                f"images() gives for rectangle {number} {int(known.sum())} pixels on which another image depends",
                "`images`: `pixels` hold more than the image's own, so a sample's result would depend on its batch "
                "mates",
            )
