"""Attention inside the vision tower, from its CLS token or from all patches."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from einops import reduce
from pydantic import Field, model_validator
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.signals import Need, Signals


class ClsAttention(Scorer):
    """Attention of the vision tower's CLS token to each patch, over one or several layers; text plays no part.

    With A[l, h, i] the attention of the CLS row to patch i in head h of vision layer l::

        score[i] = reduce_{l in layers} reduce_h A[l, h, i]

    VTC-CLS (arXiv 2412.05819) sums several layers that end at the penultimate one, with the mean over heads (the sum
    is from its official code); FasterVLM (arXiv 2412.01818) and others use a single layer. ``received`` is our choice
    for towers without a CLS token.

    layers: vision layers; negative ones count from the end.
    head_reduction: over the heads of a layer. layer_reduction: over the layers; acts only with two or more.
    query: ``cls``, or ``received``: the mean attention a patch receives from all rows.
    """

    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-2,)
    head_reduction: Literal["mean", "max"] = "mean"
    layer_reduction: Literal["sum", "mean", "max"] = "sum"
    query: Literal["cls", "received"] = "cls"

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> ClsAttention:
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers must be distinct, got {list(self.layers)}")
        if len(self.layers) == 1 and self.layer_reduction != "sum":
            raise ValueError(
                f"layer_reduction: {self.layer_reduction} has no effect on the single layer {self.layers[0]}; leave "
                f"it out or give several layers"
            )
        return self

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(),
            cls(layers=(-3, -2), layer_reduction="max", head_reduction="max"),
            cls(layers=(-3, -2), query="received"),
        )

    def needs(self) -> frozenset[Need]:
        return frozenset(Need("vision_attention", self.query, layer) for layer in self.layers)

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``, non-negative; at most 1, or the number of layers with ``sum``."""
        layers = [
            reduce(
                signals.vision_attention(self.query, layer).float(),
                "batch head vision -> batch vision",
                self.head_reduction,
            )
            for layer in self.layers
        ]
        return reduce(torch.stack(layers), "layer batch vision -> batch vision", self.layer_reduction)
