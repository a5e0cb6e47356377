"""How much of a vision tower leads to the features that a model uses."""

from __future__ import annotations

from typing import Any


def chosen_layers(model: Any) -> int:
    """The features are hidden states that the configuration names, one or several, or else the last one; number ``n``
    of them has passed ``n`` layers."""
    config = model.config
    chosen: Any = getattr(config, "vision_feature_layer", None)
    if chosen is None:
        chosen = getattr(config, "vision_feature_layers", -1)
    states = config.vision_config.num_hidden_layers + 1
    return max(layer % states for layer in ([chosen] if isinstance(chosen, int) else chosen))


def whole_tower(model: Any) -> int:
    """Every layer: the features are what the last one returns."""
    return int(model.config.vision_config.num_hidden_layers)
