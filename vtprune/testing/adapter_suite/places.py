"""What the checks of sites share: which sites a family has, and which fields are at fault there."""

from __future__ import annotations

from functools import partial
from typing import Any

from vtprune.testing.adapter_suite.frame import declares
from vtprune.testing.adapter_suite.trial import STEPS, Scattered
from vtprune.verify import plays

HALF: dict[str, Any] = {"scorer": Scattered(), "budget": 0.5}
CAUSES = {
    "tower": "`images`, `tower_rows`, `tower_depth` (vision layers run on [image, patch, dim], with full attention)",
    "vision": "`images`, `projector`, `projector_rows`",
    "projector": "`images`, `placeholders`",
    "llm": "`images`, `language_model`",
    "kv": "`images`, `language_model`",
}
has_tower_site = declares("tower_depth", "tower_rows", "vision_layers")
has_vision_site = declares("projector", "projector_rows")
GENERATE = partial(plays.generate, steps=STEPS)
