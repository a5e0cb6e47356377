"""Images after the tower: what each one became, what stages did to it, and the layout of the sample it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from vtprune.core.adapter import Modality, VisionInput
from vtprune.core.engine.tower import mean_rows
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need


def seed_of(digest: bytes) -> int:
    """A number from a hash, small enough for an int64."""
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True)
class TowerEvent:
    """What a stage inside the tower kept of one image: int64 CPU ``[vision]``, counted among the image's tokens."""

    stage: int
    layer: int
    requested: tuple[int, ...]
    kept: Tensor
    diagnostics: Mapping[str, float]


@dataclass
class ImageRecord:
    """One rectangle of vision tokens after the tower.

    features: float ``[vision, unit, dim]``, what the projector was given; attention: float32 ``[head, vision]``.
    separators: bool ``[vision]``, tokens that stand for no patch, where the family has a map that tells.
    events: what stages inside the tower did; sizes: float32 CPU ``[vision]``, how many tokens each one stands for, if
    they merged any.
    """

    image: VisionInput
    modality: Modality
    call: int
    features: Tensor | None = None
    attention: dict[Need, Tensor] = field(default_factory=dict)
    separators: Tensor | None = None
    events: list[TowerEvent] = field(default_factory=list)
    sizes: Tensor | None = None

    @property
    def alive(self) -> Tensor:
        """int64 CPU ``[vision]``: the tokens that left the tower."""
        return self.events[-1].kept if self.events else torch.arange(self.image.tokens)

    def digest(self) -> bytes:
        """A hash of the image's pixels."""
        if self.image.pixels is None:
            raise UnsupportedModeError(
                f"which pixels are an {self.modality}'s own is unknown for this model, so a component that reads "
                f"sample_seed (the scorer random does) would depend on the batch; use another scorer, or write an "
                f"adapter whose images() gives the pixels (docs/adapters.md)"
            )
        pixels = self.image.pixels.detach().contiguous().cpu()
        return hashlib.sha256(pixels.view(torch.uint8).numpy().tobytes()).digest()


def note_attention(
    records: Sequence[ImageRecord], rows: Sequence[Tensor], attention: Mapping[Need, Sequence[Tensor]]
) -> None:
    """Give each image its tokens' attention. rows: as `Adapter.tower_rows` tells them; attention: of each need, what
    the calls of its vision layer were read to be. Crops of an image are read together, for their separators' sake."""
    for _, group in groupby(zip(records, rows, strict=True), key=lambda pair: pair[0].image.image):
        crops, maps = zip(*group, strict=True)
        for need, layers in attention.items():
            found = mean_rows(layers, torch.cat(maps)).split([len(own) for own in maps], dim=1)
            for record, own, its in zip(crops, maps, found, strict=True):
                record.separators, record.attention[need] = (own < 0).any(1), its


def layout_of(positions: Tensor, records: Sequence[ImageRecord]) -> SampleLayout:
    """The layout of one sample from its vision positions and its images."""
    segments: list[Segment] = []
    start, number, latest = 0, -1, None
    for index, record in enumerate(records):
        image, stop = record.image, start + record.image.tokens
        if (record.call, image.image) != latest:
            number, latest = number + 1, (record.call, image.image)
        segments.append(Segment(index, start, stop, image.grid, record.modality, number, image.row_ends))
        start = stop
    return SampleLayout(positions, tuple(segments))
