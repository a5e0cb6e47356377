"""What the LLaVA families share: a tower that reads pictures of one size, and a projector that works patch by patch.

A picture is an image, a tile of one, or a frame of a video. Its patches stand in raster order, behind a CLS token where
the tower has one; ``vision_feature_select_strategy="default"`` cuts the sequence's first token before the projector.
Maps to patches are first made for what reaches the projector, all pictures of a call one after the other (`Patches`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.adapters.depth import chosen_layers
from vtprune.adapters.rows import one_row_each
from vtprune.adapters.sharing import unique_images
from vtprune.core.adapter import Adapter, Modality, Rows, VisionCall, VisionInput

Patches = Callable[[Any, VisionCall, Sequence[VisionInput]], list[Tensor]]
"""int64 ``[vision, unit]`` for each rectangle: patches that reach the projector, or -1 for a separator."""

PIXELS = {
    "image": ("pixel_values", "pixel_values_images"),
    "video": ("pixel_values_videos", "pixel_values"),
}
"""Names of the pixels among the arguments; they differ between versions of transformers."""


def pixels(modality: Modality, arguments: Mapping[str, Any]) -> tuple[str, Tensor]:
    """Name and value of a call's pixels, ``[image, ...]``."""
    return next((name, arguments[name]) for name in PIXELS[modality] if arguments.get(name) is not None)


def cls_tokens(model: Any) -> int:
    """Tokens of the tower's sequence that are no patches: 1 for CLIP's CLS token, 0 for SigLIP."""
    tower: Any = next(module for name, module in model.base_model.named_children() if name.endswith("_tower"))
    return int(hasattr(getattr(tower, "vision_model", tower).embeddings, "class_embedding"))


def cut(model: Any) -> int:
    """How many tokens at the front of the tower's sequence do not reach the projector."""
    return int(getattr(model.config, "vision_feature_select_strategy", "default") == "default")


def grid(model: Any, picture: Tensor) -> tuple[int, int]:
    """Rows and columns of patches in a picture ``[..., height, width]``."""
    patch = model.config.vision_config.patch_size
    return picture.shape[-2] // patch, picture.shape[-1] // patch


def reaching(model: Any, picture: Tensor) -> int:
    """Tokens of a picture that reach the projector."""
    h, w = grid(model, picture)
    return h * w + cls_tokens(model) - cut(model)


def images(model: Any, call: VisionCall) -> list[VisionInput]:
    """Every image is one picture."""
    found = []
    for number, image in enumerate(pixels("image", call.arguments)[1]):
        h, w = grid(model, image)
        tokens = reaching(model, image)
        found.append(VisionInput(tokens, (1, h, w) if tokens == h * w else None, image, number))
    return found


def pooled(height: int, width: int, stride: int, frames: int) -> Tensor:
    """int64 ``[vision, unit]``: squares of ``stride`` by ``stride`` patches of each frame; what is left over at the
    right and at the bottom belongs to none."""
    patches = torch.arange(frames * height * width).view(frames, height, width)
    return patches.unfold(1, stride, stride).unfold(2, stride, stride).reshape(-1, stride**2)


def in_tower(patches: Patches) -> Rows:
    """The rows of the tower's layers: each picture has its CLS token before what reaches the projector."""

    def rows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
        each, first = reaching(model, pixels(call.modality, call.arguments)[1]), cut(model)
        return [
            torch.where(found < 0, found, found + (found // each + 1) * first) for found in patches(model, call, images)
        ]

    return rows


def windows(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    """Every picture attends to itself, in every layer."""
    given = pixels(call.modality, call.arguments)[1]
    return lengths(model, given, given.shape[:-3].numel())


def lengths(model: Any, picture: Tensor, count: int) -> list[list[int]]:
    """Windows of every layer for ``count`` pictures of one size."""
    h, w = grid(model, picture)
    return [[h * w + cls_tokens(model)] * count] * model.config.vision_config.num_hidden_layers


def project(model: Any, features: Tensor) -> Tensor:
    """The projector on some tokens; where several of its outputs make a token, their mean."""
    return model.base_model.multi_modal_projector(features).mean(1)


def unique(
    model: nn.Module, modality: Modality, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], list[int]] | None:
    """Images and videos that appear once; None for tiles that come without their images."""
    name, given = pixels(modality, arguments)
    sizes = arguments.get("image_sizes") if modality == "image" else None
    if sizes is not None and len(sizes) != len(given):
        return None
    return unique_images(name, "image_sizes")(model, modality, arguments)


def clip_like(patches: Patches = one_row_each, projected: Patches | None = None, **fields: Any) -> Adapter:
    """An adapter of these families. patches: of each token, as they reach the tower's end; projected: as they reach the
    projector, where that is something else. Other fields as in `Adapter`."""
    shared: dict[str, Any] = {
        "language_model": "language_model",
        "vision_tower": "vision_tower",
        "vision_layers": "encoder.layers",
        "vision_attention": "self_attn",
        "projector": "multi_modal_projector",
        "placeholders": {"image": "image_token_id"},
        "images": images,
        "tower_rows": in_tower(patches),
        "projector_rows": projected or patches,
        "project": project,
        "tower_depth": chosen_layers,
        "windows": windows,
        "cls_row": lambda model: 0 if cls_tokens(model) and cut(model) else None,
        "unique": unique,
    }
    return Adapter(**{**shared, **fields})
