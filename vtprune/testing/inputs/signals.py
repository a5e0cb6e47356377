"""Made-up signals, for any needs and any bucket: ordinary ones, and the extremes that real models reach."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor

from vtprune.core.component import Component
from vtprune.core.layout import SampleLayout
from vtprune.core.signals import Need, Signals
from vtprune.testing.inputs.layouts import Bucket, one_image

HEADS: Final = 6
KV_HEADS: Final = 2
DIM: Final = 64
"""Of every vector: as many as the tiny models have in their language model, for weights that fit one size only."""
LAYER: Final = 3
LANGUAGE: Final = frozenset({"attention", "keys", "values", "queries"})
"""Kinds that exist inside the language model alone."""
MODEL_DTYPE: Final = frozenset({"features", "keys", "values", "queries", "text"})
"""Kinds that come in the model's dtype; all other floats are float32 always."""
TOKEN_AXIS: Final[Mapping[str, int]] = {
    "features": 1,
    "grid": 1,
    "annotation": 1,
    "keys": 2,
    "values": 2,
    "queries": 2,
    "attention": 2,
    "vision_attention": 2,
}
"""Which axis of a signal counts vision tokens; the others have none."""

Values = Literal["normal", "constant", "zeros", "huge", "tiny", "one_hot"]
"""normal: Gaussian; attention is a softmax that leaves something to text. constant: every number equal. zeros: all of
them 0; attention too, whose rows then look at text alone. huge: as far as float16 reaches. tiny: denormal in float32.
one_hot: one number in each vector; all attention on one token."""


def tensor_for(
    need: Need, bucket: Bucket, seed: int = 0, dtype: torch.dtype = torch.float32, values: Values = "normal"
) -> Tensor:
    """The tensor of one need, which depends on nothing but the arguments.

    dtype: of the signals that come in the model's. Raises ValueError for a need that no site offers.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{need}{seed}".encode()))
    batch, vision = bucket.alive.shape
    attention = (batch, HEADS, vision)
    shapes: dict[str, tuple[int, ...]] = {
        "features": (batch, vision, DIM),
        "keys": (batch, KV_HEADS, vision, DIM),
        "values": (batch, KV_HEADS, vision, DIM),
        "queries": (batch, HEADS, vision, DIM),
        "text": (batch, DIM),
        "annotation": (batch, vision),
    }
    if need.kind in shapes:
        tensor = _floats(shapes[need.kind], values, generator)
        if need.kind == "annotation":
            return tensor.abs().clamp(max=1)
        return tensor.to(dtype if need.kind in MODEL_DTYPE else torch.float32)
    if need.kind in ("attention", "vision_attention"):
        return _attention(attention, values, generator)
    if need.kind == "grid":
        return torch.stack([one.coordinates()[row] for one, row in zip(bucket.layouts, bucket.alive, strict=True)])
    if need.kind == "sample_seed":
        return torch.randint(2**62, (batch,), generator=generator)
    raise ValueError(f"no site offers {need}")


def _floats(shape: tuple[int, ...], values: Values, generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator)
    match values:
        case "constant":
            return torch.full(shape, 0.5)
        case "zeros":
            return torch.zeros(shape)
        case "huge":
            return (normal * 3e4).clamp(-6e4, 6e4)
        case "tiny":
            return normal * 1e-40
        case "one_hot":
            return torch.zeros(shape).scatter_(-1, normal.argmax(-1, keepdim=True), 1.0)
    return normal


def _attention(shape: tuple[int, int, int], values: Values, generator: torch.Generator) -> Tensor:
    """float32 ``[batch, head, vision]``: what a softmax over the vision tokens and three of text gives the former."""
    logits = torch.randn(*shape[:-1], shape[-1] + 3, generator=generator)
    match values:
        case "constant":
            logits = torch.zeros_like(logits)
        case "zeros":
            return torch.zeros(shape)
        case "huge":
            logits = logits * 3e4
        case "tiny":
            return logits[..., : shape[-1]].abs() * 1e-40
        case "one_hot":
            return torch.zeros(shape).scatter_(-1, logits[..., : shape[-1]].argmax(-1, keepdim=True), 1.0)
    return logits.softmax(-1)[..., : shape[-1]].contiguous()


def tensors_for(
    component: Component | Iterable[Need],
    bucket: Bucket,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    values: Values = "normal",
) -> dict[Need, Tensor]:
    """The tensors of everything that a component (or a set of needs) declares."""
    needs = component.needs() if isinstance(component, Component) else component
    return {need: tensor_for(need, bucket, seed, dtype, values) for need in needs}


def _placed(need: Need, bucket: Bucket) -> Tensor:
    made = tensor_for(need, Bucket(bucket.layouts, bucket.alive.cpu()))
    return made if need.kind == "sample_seed" else made.to(bucket.alive.device)


class Offer(Signals):
    """Signals that note in ``read`` what is read.

    A signal that was never declared is made up and given all the same, so that one check finds that fault and the
    others can look for other faults. ``looked`` says whether the layouts were looked at, whose segments have grids.
    """

    def __init__(
        self,
        tensors: Mapping[Need, Tensor],
        bucket: Bucket,
        layer: int | None = LAYER,
        make: Callable[[Need], Tensor] | None = None,
    ) -> None:
        self.bucket = bucket
        self.tensors = dict(tensors)
        self.read: set[Need] = set()
        self._make = make or partial(_placed, bucket=bucket)
        super().__init__(bucket.layouts, bucket.alive, {}, layer, KV_HEADS)
        self.looked = False

    @property
    def layouts(self) -> tuple[SampleLayout, ...]:
        """The layouts; notes that they were looked at."""
        self.looked = True
        return self._layouts

    @layouts.setter
    def layouts(self, layouts: tuple[SampleLayout, ...]) -> None:
        self._layouts = layouts

    def get(self, need: Need) -> Tensor:
        """The signal for ``need``; raises ValueError for one that no site offers."""
        self.read.add(need)
        if need not in self.tensors:
            self.tensors[need] = self._make(need)
        if need not in self._sources:
            self._sources = {**self._sources, need: partial(self.tensors.__getitem__, need)}
        return super().get(need)


def signals_of(tensors: Mapping[Need, Tensor], bucket: Bucket, layer: int | None = LAYER) -> Offer:
    """Signals that offer these tensors."""
    return Offer(tensors, bucket, layer)


def signals_for(
    component: Component | Iterable[Need],
    bucket: Bucket | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    values: Values = "normal",
    layer: int | None = LAYER,
    device: torch.device | str = "cpu",
) -> Offer:
    """Signals with everything that a component (or a set of needs) declares; bucket: default `one_image`.

    All tensors are on ``device`` but `sample_seed`, which the engine keeps on the CPU.
    """
    bucket = one_image() if bucket is None else bucket

    def make(need: Need) -> Tensor:
        made = tensor_for(need, bucket, seed, dtype, values)
        return made if need.kind == "sample_seed" else made.to(device)

    needs = component.needs() if isinstance(component, Component) else component
    tensors = {need: make(need) for need in needs}
    return Offer(tensors, Bucket(bucket.layouts, bucket.alive.to(device)), layer, make)
