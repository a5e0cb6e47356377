"""An independent reference for stages inside a vision tower: the unshortened tower, with an attention mask that hides
the dropped patches from a layer on. It shares no code with the engine and none with the adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.layout import Segment
from vtprune.core.report import Report

MOST = 256
"""Rows of a sequence, at most."""

Patches = Callable[[int, int], list[int]]
"""From a token of an image, and the columns of its grid, to the token's patches, counted in the image's sequence."""

CLIP = ("vision_tower.encoder.layers", "self_attn")
TOWERS: dict[str, tuple[str, str]] = {
    "internvl": ("vision_tower.encoder.layer", "attention"),
    "idefics3": ("vision_model.encoder.layers", "self_attn"),
    "ovis2": ("vision_tower.transformer.encoder.layers", "attention"),
}
"""By family, paths of the vision layers and of a layer's attention, where they are not CLIP's."""


def squares(first: int = 0) -> Patches:
    """2x2 patches a token, in a sequence of ``first`` rows and then the patches line by line."""

    def patches(token: int, columns: int) -> list[int]:
        row, column = divmod(token, columns)
        corner = first + 4 * row * columns + 2 * column
        return [corner, corner + 1, corner + 2 * columns, corner + 2 * columns + 1]

    return patches


PATCHES: dict[str, Patches] = {
    "llava": lambda token, _: [token + 1],
    "vipllava": lambda token, _: [token + 1],
    "paligemma": lambda token, _: [token],
    "internvl": squares(first=1),
    **dict.fromkeys(("gemma3", "cohere_vision", "idefics3", "ovis2", "lfm2_vl"), squares()),
}
"""By family, the patches of a token."""


class HiddenPatches:
    """Context manager that hides patches of ``model``'s vision tower: ``hide[layer]`` is bool ``[image, patch]``, False
    for those that queries of this layer do not see. Where the tower runs on copies of each image (beams in transformers
    5.17), the copies follow one another."""

    def __init__(self, model: Any, family: str, hide: Mapping[int, Tensor]) -> None:
        attention = TOWERS.get(family, CLIP)[1]
        self.modules = [attrgetter(attention)(layer) for layer in vision_layers(model, family)]
        self.hide = hide
        self._stack = ExitStack()

    def __enter__(self) -> None:
        for layer, kept in self.hide.items():

            def hides(module: nn.Module, args: Any, kwargs: dict[str, Any], kept: Tensor = kept) -> Any:
                hidden = args[0] if args else kwargs["hidden_states"]
                mask = kept.repeat_interleave(len(hidden) // len(kept), 0)[:, None, None, : hidden.shape[1]]
                mask = mask.expand(-1, 1, hidden.shape[1], -1)
                native = kwargs.get("attention_mask")
                if native is not None:
                    mask = mask & (native if native.dtype == torch.bool else native == 0)
                if module.config._attn_implementation == "eager":  # type: ignore[union-attr]
                    mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(hidden.dtype).min)
                return args, {**kwargs, "attention_mask": mask}

            self._stack.callback(self.modules[layer].register_forward_pre_hook(hides, with_kwargs=True).remove)

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def vision_layers(model: Any, family: str) -> list[nn.Module]:
    """The layers of the vision tower."""
    return list(attrgetter(TOWERS.get(family, CLIP)[0])(model.model))


def hidden_in(report: Report, family: str, depth: int) -> dict[int, Tensor]:
    """The map of `HiddenPatches` of what a report says was dropped in a tower of ``depth`` layers."""
    hide: dict[int, Tensor] = {}
    images = sum(len(layout.segments) for layout in report.layouts)
    for index, stage in enumerate(report.recipe.stages):
        if not stage.site.is_tower:
            continue
        for layer in sorted({event.layer for event in report.stage_events(index)}):
            rows = torch.ones(images, MOST, dtype=torch.bool)
            image = 0
            for sample, layout in enumerate(report.layouts):
                kept = set(report.kept(index, sample, layer))
                for segment in layout.segments:
                    for token in range(len(segment)):
                        if segment.start + token not in kept:
                            rows[image, PATCHES[family](token, columns(segment))] = False
                    image += 1
            hide.update(dict.fromkeys(range(layer, depth), rows))
    return hide


def columns(segment: Segment) -> int:
    """Columns of an image's grid."""
    assert segment.grid is not None
    return segment.grid[2]


def reference_tower(model: Any, family: str, report: Report) -> HiddenPatches:
    """The reference of what a report says was dropped inside the tower.

    family: the adapter's name. Raises ValueError for a family whose patches it does not know.
    """
    if family not in PATCHES:
        raise ValueError(f"which patches make up a token of {family} is not written down for the reference")
    return HiddenPatches(model, family, hidden_in(report, family, len(vision_layers(model, family))))
