"""Checks of the maps from tokens back to patches, by gradients in the unhooked model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.engine.tower import tokens_of
from vtprune.core.errors import UnsupportedModeError
from vtprune.testing.adapter_suite.encoding import (
    encode,
    entering,
    gradients,
    leaves,
    leaving,
    noting,
    projected,
)
from vtprune.testing.adapter_suite.frame import adapter_check, all_of, declares
from vtprune.testing.adapter_suite.trial import Encoded, Trial
from vtprune.testing.checking import fail

SAME = 1e-3
MOST = 96
"""Tokens of a call whose gradients are looked at; more are thinned out."""
PADDED = 2
"""Towers that pad their windows compute more rows than enter, but less than so many times as many."""


def rows_of(trial: Trial, field: str, each: Encoded) -> Tensor | None:
    """int64 ``[vision, unit]`` of a call; None where the adapter says of this very call that there is no such map."""
    try:
        maps = getattr(trial.adapter, field)(trial.model, each.call, each.images)
    except UnsupportedModeError:
        return None
    shapes = [list(rows.shape) for rows in maps]
    if len(maps) != len(each.images) or any(
        rows.dim() != 2 or len(rows) != image.tokens or rows.is_floating_point()
        for rows, image in zip(maps, each.images, strict=True)
    ):
        fail(
            f"{field} gave maps of shape {shapes} for {len(each.images)} rectangles with "
            f"{[image.tokens for image in each.images]} tokens; expected int64 [vision, unit] for each",
            f"`{field}`",
        )
    return torch.cat(list(maps))


def _some(count: int) -> list[int]:
    return sorted({round(at) for at in torch.linspace(0, count - 1, min(count, MOST)).tolist()})


def _compare(field: str, rows: Tensor, chosen: list[int], found: Iterator[list[Tensor]], total: int) -> None:
    """Hold declared rows against those with a gradient."""
    for token, grads in zip(chosen, found, strict=True):
        flat = torch.cat([grad.flatten(0, -2) for grad in grads])
        touched = (flat != 0).any(-1).nonzero()[:, 0].tolist()
        declared = sorted({row for row in rows[token].tolist() if row >= 0})
        if touched != declared:
            fail(
                f"token {token} depends on rows {_short(touched)} of {total}, but {field} says {_short(declared)}",
                f"`{field}`: an offset (a CLS token?), the order of patches (windows, raster, columns), or the sides "
                "of a "
                f"grid exchanged",
            )


def _short(rows: list[int]) -> str:
    return str(rows) if len(rows) <= 8 else f"[{', '.join(map(str, rows[:8]))}, ... {len(rows)} in all]"


def _check_rows(trial: Trial, field: str, module: nn.Module, before: bool) -> None:
    for each in trial.encoded("two"):
        if (rows := rows_of(trial, field, each)) is None:
            continue
        asked, _ = leaves(each.asked)
        with noting(module, entering if before else leaving, before) as seen:
            call = encode(trial.model, asked)
        if not seen:
            fail(f"the {type(module).__name__} that {field} speaks of did not run", "`projector` or `vision_layers`")
        total = sum(tensor.shape[:-1].numel() for tensor in seen)
        if int(rows.max()) >= total or int(rows.min()) < -1:
            fail(f"{field} names row {int(rows.max())}; there are {total}", f"`{field}`: off by one, or a batch offset")
        chosen = _some(len(rows))
        tokens = projected(torch.cat(call.features))
        _compare(field, rows, chosen, gradients(tokens[chosen], seen), total)


def _last_used(trial: Trial) -> nn.Module:
    """The last vision layer whose output the features depend on: as the adapter says, or as gradients do."""
    layers = trial.parts.vision_layers
    if trial.adapter.tower_depth is not None:
        return layers[trial.tower_depth - 1]
    asked, _ = leaves(trial.encoded("one")[0].asked)
    with ExitStack() as stack:
        seen = [stack.enter_context(noting(layer, leaving)) for layer in layers]
        total = projected(torch.cat(encode(trial.model, asked).features)).sum()
    for layer, outputs in reversed(list(zip(layers, seen, strict=True))):
        if any(bool((grad != 0).any()) for found in gradients(total[None], outputs) for grad in found):
            return layer
    fail("no token depends on what any of the vision layers gives", "`vision_layers`")
    raise AssertionError


@adapter_check(declares("tower_rows", "vision_layers"))
def check_adapter_tower_rows_are_those_that_matter(trial: Trial) -> None:
    """A token's gradient at the last vision layer that is used is non-zero at the rows that tower_rows names, alone."""
    _check_rows(trial, "tower_rows", _last_used(trial), before=False)


@adapter_check(declares("projector_rows", "projector"))
def check_adapter_projector_rows_are_those_that_matter(trial: Trial) -> None:
    """A token's gradient at the projector's input is non-zero at the rows that projector_rows names, alone."""
    projector = trial.parts.projector
    assert projector is not None
    _check_rows(trial, "projector_rows", projector, before=True)


@adapter_check(declares("project", "projector_rows", "projector"))
def check_adapter_project_is_the_projector(trial: Trial) -> None:
    """`project` on the projector's input of some tokens gives the features that the model made of them."""
    projector, project = trial.parts.projector, trial.adapter.project
    assert projector is not None
    assert project is not None
    for each in trial.encoded("two"):
        if (rows := rows_of(trial, "projector_rows", each)) is None:
            continue
        with torch.no_grad(), noting(projector, entering, before=True) as given:
            features = torch.cat(encode(trial.model, each.asked).features)
        own = (rows >= 0).all(1).nonzero()[:, 0]
        some = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[: len(own) // 2]]
        with torch.no_grad():
            made = project(trial.model, tokens_of(given, rows[some]))
        if made.shape != features[some].shape:
            fail(f"project gave {list(made.shape)}; expected [vision, dim] = {list(features[some].shape)}", "`project`")
        by = float((made - features[some]).abs().max())
        if by > SAME:
            fail(
                f"project on the projector's input differs from the features that the model made, by {by:.1e}",
                "`project` leaves out a step (a norm, pooling), or takes the unit's patches in another order",
            )


@adapter_check(declares("tower_depth", "vision_layers"))
def check_adapter_tower_depth_is_where_features_leave(trial: Trial) -> None:
    """What enters vision layers below tower_depth changes the features; what enters later ones does not."""
    layers, depth = trial.parts.vision_layers, trial.tower_depth
    if not 0 < depth <= len(layers):
        fail(f"tower_depth is {depth}; the tower has {len(layers)} layers", "`tower_depth`")
    each = trial.encoded("one")[0]
    plain = torch.cat(each.call.features)

    def disturb(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first = entering(args, kwargs, None)
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(3))
        if args:
            return (first + noise, *args[1:]), kwargs
        return args, {**kwargs, next(name for name, value in kwargs.items() if value is first): first + noise}

    for number, layer in enumerate(layers):
        handle = layer.register_forward_pre_hook(disturb, with_kwargs=True)
        try:
            with torch.no_grad():
                other = torch.cat(encode(trial.model, each.asked).features)
        finally:
            handle.remove()
        if (matters := not torch.equal(other, plain)) != (number < depth):
            fail(
                f"tower_depth is {depth}, but what enters vision layer {number} "
                f"{'changes' if matters else 'does not change'} "
                f"the features",
                "`tower_depth` counts the layers that lead to the features the model uses",
            )


def _no_cls(trial: Trial) -> str | None:
    row = trial.adapter.cls_row(trial.model)
    return "the adapter says that this model's tower has no CLS token" if row is None else None


@adapter_check(all_of(_no_cls, declares("vision_layers")))
def check_adapter_cls_row_is_no_patch(trial: Trial) -> None:
    """The CLS row enters the vision layers the same whatever the picture is, and makes up no token."""
    row, each = trial.adapter.cls_row(trial.model), trial.encoded("one")[0]
    assert row is not None
    found = []
    for redraw in (False, True):
        asked, floats = leaves(each.asked)
        with torch.no_grad(), noting(trial.parts.vision_layers[0], entering, before=True) as seen:
            for value in floats.values() if redraw else ():
                value.add_(1.0)
            encode(trial.model, asked)
        found.append(seen[0])
    length = found[0].shape[-2]
    if not 0 <= row < length:
        fail(f"cls_row is {row}; a sequence has {length} rows", "`cls_row`")
    if not torch.equal(found[0][..., row, :], found[1][..., row, :]):
        fail(f"row {row} of the tower's sequence depends on the picture, so it is a patch", "`cls_row`")
    if trial.adapter.tower_rows is not None and (rows := rows_of(trial, "tower_rows", each)) is not None:
        taken = rows[rows >= 0] % length
        if bool((taken == row).any()):
            fail(
                f"tower_rows names the CLS row {row} for {int((taken == row).sum())} tokens", "`tower_rows`: off by one"
            )


@adapter_check(declares("windows", "vision_layers"))
def check_adapter_windows_cover_the_sequence(trial: Trial) -> None:
    """The attention windows of each vision layer add up to the rows that enter it; to more where they are padded."""
    windows, layers = trial.adapter.windows, trial.parts.vision_layers
    assert windows is not None
    for each in trial.encoded("two"):
        declared = windows(trial.model, each.call, each.images)
        if len(declared) != len(layers):
            fail(f"windows gave lengths for {len(declared)} layers; the tower has {len(layers)}", "`windows`")
        for number, layer in enumerate(layers[: trial.tower_depth]):
            with torch.no_grad(), noting(layer, entering, before=True) as seen:
                encode(trial.model, each.asked)
            ran, said = sum(tensor.shape[:-1].numel() for tensor in seen), sum(declared[number])
            if not ran <= said < PADDED * ran:
                fail(
                    f"windows of vision layer {number} add up to {said} rows, but {ran} entered it",
                    "`windows`: lengths in patches, of every image of the call, CLS tokens included",
                )
