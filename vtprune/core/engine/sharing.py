"""Images that appear more than once in a call of the tower: encoded once, and given back at every place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vtprune.core.adapter import VisionCall
from vtprune.core.engine.deepstack import repeated
from vtprune.core.engine.images import ImageRecord


@dataclass(frozen=True)
class Sharing:
    """A call of which each image is encoded once.

    asked: the arguments as the model got them; arguments: the same without repeated images, as they are encoded.
    index: for each image that was asked for, its place among those that are encoded.
    """

    asked: dict[str, Any]
    arguments: dict[str, Any]
    index: list[int]

    def call(self, encoded: VisionCall) -> VisionCall:
        """The call as if every image had been encoded by itself. Its output is that of ``encoded``, edited in place."""
        output, features = encoded.output, [encoded.features[image] for image in self.index]
        raw = output.pooler_output  # the model's forward expects a tensor back where there was one
        output.pooler_output = raw[self.index] if isinstance(raw, Tensor) and raw.dim() == 3 else features
        repeated(output, [len(image) for image in encoded.features], self.index)
        _repeat_fields(output, len(encoded.features), self.index)
        return VisionCall(encoded.modality, self.asked, output, tuple(features))

    def records(self, made: Sequence[ImageRecord]) -> list[ImageRecord]:
        """The images that were asked for, from those that were encoded."""
        return [
            replace(record, image=replace(record.image, image=place))
            for place, image in enumerate(self.index)
            for record in made
            if record.image.image == image
        ]


def _repeat_fields(output: Any, unique: int, index: Sequence[int]) -> None:
    """Give back what stands beside the features for each image, once for every time it was asked for."""
    for name in [name for name in output if name not in ("pooler_output", "deepstack_features")]:
        value = output[name]
        if isinstance(value, Tensor) and value.dim() > 2 and len(value) == unique:
            setattr(output, name, value[list(index)])
