"""What families with the Pixtral tower (arXiv 2410.07073) share.

The tower packs the patches of all images of a call into one sequence, in which each image attends to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, VisionCall, VisionInput


def _patch_grids(model: Any, call: VisionCall) -> list[tuple[int, int]]:
    """Height and width of each image in patches."""
    patch = model.config.vision_config.patch_size
    return [(int(height) // patch, int(width) // patch) for height, width in call.arguments["image_sizes"]]


def _merge(model: Any) -> int:
    """Patches along the edge of a token: Pixtral itself merges none."""
    return int(getattr(model.config, "spatial_merge_size", 1))


def packed_images(model: Any, call: VisionCall) -> list[VisionInput]:
    """One rectangle per image, without the padding around its pixels."""
    patch, merge = model.config.vision_config.patch_size, _merge(model)
    images = []
    for number, (height, width) in enumerate(_patch_grids(model, call)):
        pixels = call.arguments["pixel_values"][number, :, : height * patch, : width * patch]
        grid = (1, height // merge, width // merge)
        images.append(VisionInput(grid[1] * grid[2], grid, pixels, number))
    return images


def packed_rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """The patches of each token; a last row or column of patches that makes no whole token is left out."""
    merge = _merge(model)
    rows, start = [], 0
    for height, width in _patch_grids(model, call):
        patches = (start + torch.arange(height * width)).view(height, width)
        whole = patches[: height // merge * merge, : width // merge * merge]
        rows.append(rearrange(whole, "(h a) (w b) -> (h w) (a b)", a=merge, b=merge))
        start += height * width
    return rows


def packed_windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    """Flash kernels work image by image; the others on the whole sequence, with a mask."""
    lengths = [height * width for height, width in _patch_grids(model, call)]
    config = model.config.vision_config
    windows = lengths if "flash" in str(config._attn_implementation) else [sum(lengths)]
    return [windows] * config.num_hidden_layers


def project_one_below_the_other(model: Any, projector: nn.Module, features: Tensor) -> Tensor:
    """The projector on tokens ``[vision, unit, dim]``, which it merges as if they stood one below the other in an image
    one token wide."""
    side = model.config.vision_config.patch_size * model.config.spatial_merge_size
    patches = rearrange(features, "vision unit dim -> (vision unit) dim")
    made: Tensor = projector(patches, [(side * len(features), side)])
    return made


pixtral_like = partial(
    Adapter,
    language_model="language_model",
    vision_tower="vision_tower",
    vision_layers="transformer.layers",
    vision_attention="attention",
    projector="multi_modal_projector",
    placeholders={"image": "image_token_id"},
    images=packed_images,
    tower_rows=packed_rows,
    projector_rows=packed_rows,
    windows=packed_windows,
    unique=unique_images("pixel_values", "image_sizes"),
)
"""An adapter of this kind; give it a name, a summary, the architectures, how it projects, and what else is its own."""
