"""The table of tiny models: which families exist, in which variants, and how each is made."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import transformers

from vtprune.core.errors import did_you_mean
from vtprune.testing.models.tiny import Attention, Tiny


@dataclass(frozen=True)
class Variant:
    """One tiny model.

    family: the adapter that serves it; architecture: its model class in transformers.
    target: the maker as ``"module:function"`` under ``vtprune.testing.models``, called with ``attn`` and the options.
    """

    family: str
    architecture: str
    target: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def available(self) -> bool:
        """Whether the installed transformers has the model class."""
        return hasattr(transformers, self.architecture)

    def make(self, attn: Attention = "sdpa") -> Tiny:
        """Build it (once; makers are cached)."""
        module, function = self.target.split(":")
        maker = getattr(importlib.import_module(f"vtprune.testing.models.{module}"), function)
        made: Tiny = maker(attn, **self.options)
        return made


VARIANTS: dict[str, Variant] = {
    "llava": Variant("llava", "LlavaForConditionalGeneration", "llava:tiny_llava"),
    "llava-mistral": Variant("llava", "LlavaForConditionalGeneration", "llava:tiny_llava", {"text": "mistral"}),
    "qwen2_5_vl": Variant("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl:tiny_qwen2_5_vl"),
}


def variant(name: str) -> Variant:
    """The variant of that name; ValueError with the nearest name if there is none."""
    if name not in VARIANTS:
        raise ValueError(f"no tiny model {name!r}.{did_you_mean(name, VARIANTS)} There are {', '.join(VARIANTS)}")
    return VARIANTS[name]
