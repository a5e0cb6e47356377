"""Mistral Small 3.1 and later: Pixtral tower, 2x2 merger, Mistral with 1-D RoPE.

The marks that end the rows of an image are text.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtprune.adapters.pixtral_like import pixtral_like, project_one_below_the_other


def _project(model: Any, features: Tensor) -> Tensor:
    return project_one_below_the_other(model, model.base_model.multi_modal_projector, features)


ADAPTER = pixtral_like(
    name="mistral3",
    summary="Mistral Small 3.1 and later (Pixtral tower)",
    architectures=("Mistral3ForConditionalGeneration",),
    project=_project,
)
