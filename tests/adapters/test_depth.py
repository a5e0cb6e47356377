"""How many layers of a tower lead to the features, by what the configuration says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vtprune.adapters.depth import chosen_layers, whole_tower

LAYERS = 4


def model(**config: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(num_hidden_layers=LAYERS), **config))


@pytest.mark.parametrize(
    ("config", "depth"),
    [
        ({"vision_feature_layer": -1}, 4),
        ({"vision_feature_layer": -2}, 3),
        ({"vision_feature_layer": 0}, 0),  # the embeddings: no layer is run for the features
        ({"vision_feature_layer": 2}, 2),
        ({"vision_feature_layer": [-2, 1]}, 3),
        ({"vision_feature_layers": [1, 2]}, 2),
        ({"vision_feature_layer": None, "vision_feature_layers": [0, 1]}, 1),
        ({}, 4),
    ],
)
def test_hidden_states_that_the_configuration_names(config: dict[str, Any], depth: int) -> None:
    assert chosen_layers(model(**config)) == depth


def test_the_whole_tower() -> None:
    assert whole_tower(model()) == LAYERS
