"""How much of a vision tower leads to the features that a model uses."""

from __future__ import annotations

from typing import Any


def whole_tower(model: Any) -> int:
    """Every layer: the features are what the last one returns."""
    return int(model.config.vision_config.num_hidden_layers)
