"""Images cut into tiles (anyres): LLaVA-NeXT and its successors.

An image becomes two rectangles of tokens: the whole of it as one tile, then the patches of its tiles put together,
without the padding, each row ended by a newline token. An image that is not cut has a single newline token at its end.
Which patch went where is asked of the model itself: numbers are sent through its ``pack_image_features``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from vtprune.adapters import clip_like
from vtprune.core.adapter import VisionCall, VisionInput
from vtprune.core.errors import UnsupportedModeError


def side(model: Any) -> int:
    """Patches along the edge of a tile."""
    config = model.config.vision_config
    return int(config.image_size // config.patch_size)


def tiles(model: Any, call: VisionCall) -> list[int]:
    """How many tiles of each image the tower reads."""
    edge, points = model.config.vision_config.image_size, model.config.image_grid_pinpoints
    per_sample = call.arguments.get(
        "batch_num_images"
    )  # LLaVA-OneVision cuts only what is the only image of its sample
    sizes = call.arguments["image_sizes"].tolist()
    counts = [1] * len(sizes) if per_sample is None else per_sample.tolist()
    whole = [count != 1 for count in counts for _ in range(count)]
    best = [select_best_resolution(size, points) for size in sizes]
    return [1 if uncut else 1 + -(-h // edge) * -(-w // edge) for uncut, (h, w) in zip(whole, best, strict=True)]


def _packed(model: Any, call: VisionCall) -> list[Tensor]:
    """For each image float64 ``[vision, 2]``: the number of every token's patch within the image and its square, or
    -1 for a newline token.

    Where the square is not that of the number, the token is a mixture of several patches.
    """
    patches, options = side(model) ** 2, {}
    if "vision_aspect_ratio" in model.config.to_dict():
        options["vision_aspect_ratio"] = call.arguments.get("vision_aspect_ratio") or model.config.vision_aspect_ratio
    else:
        options["vision_feature_select_strategy"] = model.config.vision_feature_select_strategy
    numbers = [torch.arange(count * patches, dtype=torch.float64).view(count, patches) for count in tiles(model, call)]
    found, _ = model.base_model.pack_image_features(
        [torch.stack([number, number**2], -1) for number in numbers],
        call.arguments["image_sizes"],
        image_newline=torch.full((2,), -1.0, dtype=torch.float64),
        **options,
    )
    return list(found)


def images(model: Any, call: VisionCall) -> list[VisionInput]:
    """Two rectangles for each image, in the order of the placeholders."""
    edge, counts = side(model), tiles(model, call)
    given = clip_like.pixels("image", call.arguments)[1]
    pictures = given.split(counts) if given.dim() == 4 else [image[:n] for image, n in zip(given, counts, strict=True)]
    found = []
    for number, (picture, packed) in enumerate(zip(pictures, _packed(model, call), strict=True)):
        is_newline = packed[edge**2 :, 0] < 0
        width = int(is_newline.int().argmax()) + 1
        found.append(VisionInput(edge**2, (1, edge, edge), picture[:1], number))
        found.append(VisionInput(len(is_newline), (1, len(is_newline) // width, width), picture, number, row_ends=True))
    return found


def patches(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """int64 ``[vision, 1]`` per rectangle: the patch of every token; UnsupportedModeError where there is none."""
    found, start = [], 0
    for number, (packed, count) in enumerate(zip(_packed(model, call), tiles(model, call), strict=True)):
        value, square = packed.unbind(-1)
        mixed = (value >= 0) & ((square - value**2).abs() > 1e-3)
        if bool(mixed.any()):
            raise UnsupportedModeError(
                f"image {number} of {call.arguments['image_sizes'][number].tolist()} pixels has more patches than "
                f"{model.config.vision_aspect_ratio!r} allows, so the model resized them: each of {int(mixed.sum())} "
                f"tokens mixes several patches in unequal parts, and what the vision tower says of patches cannot be "
                f"assigned to tokens. Use a site or signal of the language model, or a smaller image"
            )
        rows = torch.where(value < 0, value, value + start).long()
        found.extend(rows[:, None].split([image.tokens for image in images if image.image == number]))
        start += count * side(model) ** 2
    return found


def windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    """Every tile, or frame of a video, attends to itself."""
    if call.modality == "video":
        return clip_like.windows(model, call, images)
    return clip_like.lengths(model, clip_like.pixels("image", call.arguments)[1], sum(tiles(model, call)))
