"""Families in which one row of a sequence is one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtprune.core.adapter import VisionCall, VisionInput


def one_row_each(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    """int64 ``[vision, 1]`` for each image: the rows of all images of a call, one after the other."""
    counts = [image.tokens for image in images]
    return list(torch.arange(sum(counts))[:, None].split(counts))


def project_row(model: Any, features: Tensor) -> Tensor:
    """The projector on some tokens of one row each, ``[vision, 1, dim]`` to ``[vision, dim]``."""
    made: Tensor = model.base_model.multi_modal_projector(features.squeeze(1))
    return made
