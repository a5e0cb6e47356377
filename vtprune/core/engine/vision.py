"""What the vision tower saw and made, kept until the language model runs.

Since transformers 5.2x `generate` runs the tower before and outside the model's forward, on the un-expanded batch;
earlier versions run it inside, on the expanded one. Either way the tower's results wait here, image by image, and are
handed to the samples whose placeholders they fill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Parts, VisionInput
from vtprune.core.engine.attention import attention_rows, is_causal
from vtprune.core.engine.cost import module_flops_per_token, vision_flops
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need


@dataclass
class ImageRecord:
    """One image after the tower. features: float ``[vision, unit, dim]``; attention: float32 ``[head, vision]``."""

    image: VisionInput
    features: Tensor | None = None
    attention: dict[Need, Tensor] = field(default_factory=dict)

    def digest(self) -> bytes:
        """A hash of the image's pixels."""
        pixels = self.image.pixels.detach().contiguous().cpu()
        return hashlib.sha256(pixels.view(torch.uint8).numpy().tobytes()).digest()


class VisionLog:
    """Collects what the tower makes. ``needs`` says which vision attention is wanted, ``features`` whether the
    projector's input is."""

    def __init__(self, parts: Parts, needs: frozenset[Need], features: bool) -> None:
        self.parts, self.needs, self.wants_features = parts, needs, features
        self.records: list[ImageRecord] = []
        self.flops = 0
        self._flops: dict[tuple[int, tuple[tuple[int, ...], ...]], int] = {}
        self._used = False
        self._fresh: list[ImageRecord] = []
        self._unprojected: list[ImageRecord] = []
        self._calls: dict[Need, list[Tensor]] = {}

    def clear(self) -> None:
        """Let go of every image."""
        self.records, self.flops, self._used = [], 0, False
        self._fresh, self._unprojected, self._calls = [], [], {}

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def generate_starts(self) -> None:
        """A new call to `generate`: what an earlier one left over, perhaps by an error, is not joined by what comes."""
        self._used = True

    def base_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the multimodal base model: unless its images were encoded before, they come now."""
        if not kwargs.get("mm_encoder_outputs"):
            self.records, self.flops, self._used = [], 0, False

    def tower_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the vision tower."""
        if self._used:
            self.records, self.flops, self._used = [], 0, False
        images = self.parts.adapter.inputs(self.parts.model, args, kwargs)
        self._fresh = [ImageRecord(image) for image in images]
        self.records.extend(self._fresh)
        self._unprojected = self._fresh
        self._calls = {need: [] for need in self.needs}
        windows = self.parts.adapter.windows(self.parts.model, images)
        units = sum(image.tokens for image in images)
        shape = (units, tuple(map(tuple, windows)))
        if shape not in self._flops:
            patches = sum(windows[0]) if windows else 0
            tower = vision_flops(module, self.parts.vision_layers, patches, windows, exclude=(self.parts.projector,))
            self._flops[shape] = tower + units * module_flops_per_token(self.parts.projector)
        self.flops += self._flops[shape]

    def tower_ends(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the vision tower."""
        images = [record.image for record in self._fresh]
        for need, calls in self._calls.items():
            for record, rows in zip(
                self._fresh, self.parts.adapter.attention(self.parts.model, calls, images), strict=True
            ):
                record.attention[need] = rows
        self._calls = {}

    def projector_starts(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of the projector; only registered when features are wanted. Merged features that the engine
        itself sends through the projector are not an image's."""
        waiting, self._unprojected = self._unprojected, []
        if not waiting:
            return
        made = self.parts.adapter.features(self.parts.model, args[0], [record.image for record in waiting])
        for record, features in zip(waiting, made, strict=True):
            record.features = features

    def tap(self, wanted: Sequence[Need], cls_row: int | None) -> Any:
        """The attention tap of one vision layer."""

        def see(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
        ) -> None:
            batch, length = query.shape[0], query.shape[2]
            for need in wanted:
                if need not in self._calls:
                    continue
                if need.query == "cls":
                    rows = torch.full((batch, 1), cls_row or 0, device=query.device)
                else:
                    rows = torch.arange(length, device=query.device).expand(batch, -1)
                    if cls_row is not None:
                        rows = rows[:, rows[0] != cls_row]
                weights = torch.full(rows.shape, 1 / rows.shape[1], device=query.device)
                with torch.no_grad():
                    self._calls[need].append(
                        attention_rows(
                            query,
                            key,
                            mask,
                            rows,
                            weights,
                            scaling=kwargs.get("scaling"),
                            causal=is_causal(module, kwargs) and mask is None,
                        )
                    )

        return see

    # -- handing over -----------------------------------------------------------------------------------------------

    def assign(self, modalities: Sequence[Sequence[str]]) -> tuple[list[list[ImageRecord]], list[list[str]]]:
        """The images of each sample, and each image's modality.

        modalities: for each sample the modality of every vision token in prompt order. A batch that `generate` expanded
        (beams, several sequences) after the tower ran gets each sample's images once per copy.
        """
        self._used = True
        wanted = sum(map(len, modalities))
        made = sum(record.image.tokens for record in self.records)
        copies = wanted // made if made and wanted % made == 0 else 0
        if not copies or len(modalities) % copies:
            raise UnsupportedModeError(
                f"the prompt has {wanted} vision tokens, but the vision tower made {made} in its last pass; pass "
                f"pixel values in the same call as the prompt (features computed elsewhere carry no layout)"
            )
        originals = modalities[::copies]
        stills = sum(row.count("image") for row in originals)
        queues: dict[str, list[ImageRecord]] = {"image": [], "video": []}
        for record in self.records:
            queues["image" if stills > 0 else "video"].append(record)
            stills -= record.image.tokens
        rows: list[list[ImageRecord]] = []
        kinds: list[list[str]] = []
        for tokens in originals:
            row, names, at = [], [], 0
            while at < len(tokens):
                record = queues[tokens[at]].pop(0)
                row.append(record)
                names.append(tokens[at])
                at += record.image.tokens
            rows.append(row)
            kinds.append(names)
        return [row for row in rows for _ in range(copies)], [row for row in kinds for _ in range(copies)]


def layout_of(positions: Tensor, records: Sequence[ImageRecord], kinds: Sequence[str]) -> SampleLayout:
    """The layout of one sample from its vision positions and its images."""
    segments, start = [], 0
    for index, (record, kind) in enumerate(zip(records, kinds, strict=True)):
        stop = start + record.image.tokens
        segments.append(Segment(index, start, stop, record.image.grid, "video" if kind == "video" else "image"))
        start = stop
    return SampleLayout(positions, tuple(segments))
