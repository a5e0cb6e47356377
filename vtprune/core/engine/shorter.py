"""A vision layer run on what is left of its input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.core.errors import UnsupportedModeError
from vtprune.core.signals import Need

Buckets = list[Tensor]
"""int64 ``[image, patch]`` each: rows of the flattened input ``(image patch)`` that run together as one rectangle."""


def buckets_of(gone: Tensor, device: torch.device) -> Buckets | None:
    """Images that keep equally many patches, together; None if nothing is ``gone`` (bool ``[image, patch]``, CPU).
    Images of which nothing is left are in no bucket."""
    if not bool(gone.any()):
        return None
    length = gone.shape[1]
    by_count: dict[int, list[Tensor]] = defaultdict(list)
    for image, row in enumerate(gone):
        left = (~row).nonzero().squeeze(-1)
        if len(left):
            by_count[len(left)].append(left + image * length)
    return [torch.stack(rows).to(device) for rows in by_count.values()]


class Keys:
    """Attention read while a layer runs bucket by bucket, put back where its patches stand."""

    def __init__(self, attention: Mapping[Need, list[Tensor]]) -> None:
        self.attention = attention
        self.bucket: Tensor | None = None
        self._pieces: dict[Need, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def collect(self, need: Need, found: Tensor) -> None:
        """Take what a tap found, float32 ``[image, head, patch]``."""
        if self.bucket is None:
            self.attention[need].append(found)
        else:
            self._pieces[need].append((self.bucket, found))

    def spread(self, images: int, length: int) -> None:
        """The layer has run: zeros stand for patches that are gone."""
        self.bucket = None
        for need, pieces in self._pieces.items():
            heads = pieces[0][1].shape[1]
            full = pieces[0][1].new_zeros(images * length, heads)
            for bucket, found in pieces:
                full[bucket.flatten().to(full.device)] = found.transpose(1, 2).flatten(0, 1)
            self.attention[need].append(full.view(images, length, heads).transpose(1, 2))
        self._pieces.clear()


def shorter(
    layer: Callable[..., Any],
    hidden: Tensor,
    buckets: Buckets | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    keys: Keys | None = None,
) -> Any:
    """``layer(hidden, *args, **kwargs)`` on the patches that are left, ``[image, patch, dim]`` in and out; zeros stand
    for the others. Raises UnsupportedModeError for tensors among the arguments that cannot be shortened."""
    if buckets is None:
        return layer(hidden, *args, **kwargs)
    images, length = hidden.shape[:2]
    flat = hidden.flatten(0, 1)
    buckets = [bucket.to(flat.device) for bucket in buckets]  # the stage may have acted at a layer of another device
    made = []
    for bucket in buckets:
        if keys is not None:
            keys.bucket = bucket
        given = [_cut(value, bucket, images, length) for value in args]
        named = {name: _cut(value, bucket, images, length) for name, value in kwargs.items()}
        made.append(layer(flat[bucket], *given, **named))
    wrapped = any(isinstance(output, tuple) for output in made)
    rows = [(output[0] if isinstance(output, tuple) else output).flatten(0, 1) for output in made]
    full = torch.zeros_like(flat)
    if rows:
        left = torch.cat(rows)
        at = torch.cat([bucket.flatten() for bucket in buckets])
        full = full.to(left.device).index_copy(0, at.to(left.device), left)
    full = full.view(images, length, -1)
    return (full,) if wrapped else full


def _cut(value: Any, bucket: Tensor, images: int, length: int) -> Any:
    """An argument for one bucket: masks ``[image|1, head|1, query, key]`` lose rows and columns."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() != 4 or value.shape[-1] != length or value.shape[-2] not in (1, length):
        raise UnsupportedModeError(
            f"a vision layer was given a tensor of shape {list(value.shape)} beside its hidden states; expected none, "
            f"or a mask [image, head, {length}, {length}]: dropping patches inside this tower is not exact. Use "
            f"vision.output"
        )
    bucket = bucket.to(value.device)
    mask, at = value.expand(images, *value.shape[1:])[bucket[:, 0] // length], bucket % length
    if mask.shape[2] == length:
        mask = mask.gather(2, at[:, None, :, None].expand(-1, mask.shape[1], -1, length))
    return mask.gather(3, at[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))
