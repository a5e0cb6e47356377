"""Checks of the grids: where in the picture a token lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtprune.testing.adapter_suite.encoding import encode, gradients, layers_pass_by, leaves, noting, projected
from vtprune.testing.adapter_suite.frame import adapter_check, all_of, blaming, declares
from vtprune.testing.adapter_suite.rows import rows_of
from vtprune.testing.adapter_suite.trial import Encoded, Trial
from vtprune.testing.checking import fail


def _regions(trial: Trial, each: Encoded) -> Tensor | None:
    """float ``[vision, 2]``: the middle (y, x) of the pixels that a token is made of, where no vision layer mixes
    patches; NaN for separators. None where pixels are no pictures."""
    asked, floats = leaves(each.asked)
    pictures = [value for value in floats.values() if value.dim() >= 4 and min(value.shape[-2:]) > 1]
    if not pictures:
        return None
    with layers_pass_by((*trial.parts.vision_layers, *trial.parts.video_layers)):
        call = encode(trial.model, asked)
    centres = []
    for found in gradients(projected(torch.cat(call.features)), pictures[:1]):
        at = (found[0] != 0).flatten(0, -3).any(0).nonzero().float()
        centres.append((at.amin(0) + at.amax(0)) / 2 if len(at) else torch.full((2,), torch.nan))
    return torch.stack(centres)


def _no_regions(trial: Trial) -> str | None:
    each = trial.encoded("two")[0]
    if all(image.grid is None for image in each.images):
        return "the adapter gives no grid"
    if not any(v.dim() >= 4 and min(v.shape[-2:]) > 1 for v in leaves(each.asked)[1].values()):
        return "the model's pixels are packed patches, which do not say where they lie"
    if trial.adapter.tower_rows is None:
        return "the adapter declares no `tower_rows`: its tokens are mixtures of patches"
    return None


@adapter_check(all_of(declares("vision_layers"), _no_regions))
def check_adapter_grid_follows_the_picture(trial: Trial) -> None:
    """Tokens of one row (or one column) of a grid are made of pixels on one line of the picture."""
    for each in trial.encoded("two"):
        if rows_of(trial, "tower_rows", each) is None or (regions := _regions(trial, each)) is None:
            continue
        for number, (image, own) in enumerate(
            zip(each.images, regions.split([i.tokens for i in each.images]), strict=True)
        ):
            if image.grid is None:
                continue
            grid = own.view(*image.grid, 2)
            grid = grid[:, :, :-1] if image.row_ends else grid
            if grid.isnan().any() or grid.shape[1] * grid.shape[2] < 2:
                continue
            raster = _level(grid[..., 0], 2) and _level(grid[..., 1], 1)
            columns = _level(grid[..., 1], 2) and _level(grid[..., 0], 1)
            if not raster and not columns:
                fail(
                    f"rectangle {number} has the grid {image.grid}, but the tokens of its rows are not made of "
                    "pixels on one "
                    f"line of the picture",
                    "`images`: height and width of the grid are exchanged, or the tokens are not in its order",
                )


def _level(values: Tensor, axis: int) -> bool:
    """Whether ``[t, row, column]`` is constant along an axis."""
    return bool((values.amax(axis) - values.amin(axis)).abs().max() < 1.0)


def _not_multi(trial: Trial) -> str | None:
    def read(args: Any, kwargs: Any, output: Any) -> Any:
        return kwargs.get("position_ids")

    def make() -> list[Any]:
        with torch.no_grad(), noting(trial.parts.language_model, read, before=True) as seen:
            trial.model(**trial.inputs("two"))
        return seen

    seen = trial.once("position_ids", make)
    if not seen or not isinstance(seen[0], Tensor) or seen[0].dim() != 3 or len(seen[0]) < 3:
        return "the family has no positions in height and width (M-RoPE)"
    return None


@adapter_check(_not_multi)
def check_adapter_grid_agrees_with_the_positions(trial: Trial) -> None:
    """Rows and columns of an image's grid are those that the model's own M-RoPE positions give its tokens."""
    _not_multi(trial)
    positions: list[Tensor] = trial.once("position_ids", list)
    height, width = positions[0][-2, 0], positions[0][-1, 0]
    with torch.no_grad(), blaming("`images`"), trial.prune("projector", budget=1.0) as run:
        trial.model(**trial.inputs("two"))
    layout = run.report.layouts[0]
    for segment in layout.segments:
        if segment.grid is None or segment.row_ends:
            continue
        at = layout.positions[segment.start : segment.stop]
        own = _axes(segment.grid)
        seen = [axis[at] - axis[at].min() for axis in (height, width)]
        if not all(torch.equal(one, other) for one, other in zip(seen, own, strict=True)):
            size = [int(axis.max()) + 1 for axis in seen]
            fail(
                f"image {segment.image} has the grid {segment.grid}, but its M-RoPE positions span {size[0]} rows and "
                f"{size[1]} columns in another order",
                "`images`: height and width of the grid are exchanged, or counted in patches",
            )


def _axes(grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Row and column of every token of a grid, int64 ``[vision]`` each."""
    t, h, w = grid
    axes = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    return axes[1].flatten(), axes[2].flatten()
