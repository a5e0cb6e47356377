"""Sites: canonical names of places in a model, and their little grammar.

    vision.layers[I]       hidden states entering vision layer(s) I, inside the vision tower
    vision.output          the vision tower's output, before the projector
    projector.output       the projector's output, before the language model
    llm.layers[I]          hidden states entering decoder layer(s) I
    llm.layers[I].kv       the cached keys and values of decoder layer(s) I, per KV head

``I`` is an index (``2``, ``-1``), a slice (``2:``, ``4:20:4``) or a list (``8,16,24``), as in Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

_LAYERS = re.compile(r"llm\.layers\[(?P<index>[^\]]*)\](?P<kv>\.kv)?")
_VISION_LAYERS = re.compile(r"vision\.layers\[(?P<index>[^\]]*)\]")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?(?::(\d+))?", re.ASCII)
_LIST = re.compile(r"-?\d+(,-?\d+)*", re.ASCII)
FORMS = (
    "vision.output, projector.output, llm.layers[I], llm.layers[I].kv or vision.layers[I], with I like 2, -1, 2:, "
    "4:20:4 or 8,16,24"
)


@dataclass(frozen=True)
class Site:
    """A parsed site. Build it with `Site.parse`; ``str(site)`` gives the canonical text back."""

    kind: Literal["tower", "vision", "projector", "llm", "kv"]
    index: str = ""

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read a site; raises ValueError with the accepted forms."""
        compact = text.replace(" ", "")
        if compact in ("vision.output", "projector.output"):
            return cls("vision" if compact == "vision.output" else "projector")
        match = _LAYERS.fullmatch(compact) or _VISION_LAYERS.fullmatch(compact)
        if match is None:
            raise ValueError(f"unknown site {text!r}; expected {FORMS}")
        index = match["index"]
        parts = _SLICE.fullmatch(index)
        if parts is None and not _LIST.fullmatch(index):
            raise ValueError(f"bad layer index {index!r} in site {text!r}; expected {FORMS}")
        if parts and parts[3] and int(parts[3]) == 0:
            raise ValueError(f"the step of site {text!r} is 0; a slice needs a step of 1 or more")
        if match.re is _VISION_LAYERS:
            return cls("tower", index)
        return cls("kv" if match["kv"] else "llm", index)

    def __str__(self) -> str:
        if self.kind in ("vision", "projector"):
            return f"{self.kind}.output"
        if self.kind == "tower":
            return f"vision.layers[{self.index}]"
        return f"llm.layers[{self.index}]" + (".kv" if self.kind == "kv" else "")

    @property
    def is_input(self) -> bool:
        """True for the sites before the language model; what they drop is gone from its layer 0 on."""
        return self.kind in ("tower", "vision", "projector")

    @property
    def is_tower(self) -> bool:
        """True for the sites inside the vision tower, whose layers are vision layers."""
        return self.kind == "tower"

    def layers(self, depth: int) -> tuple[int, ...]:
        """The layers the site names, ascending and distinct: decoder layers, or vision layers inside the tower, of
        which there are ``depth``; ``(0,)``, the first decoder layer, for the two outputs. Raises ValueError for a layer
        out of range or an empty slice."""
        if self.kind in ("vision", "projector"):
            return (0,)
        owner = "vision tower" if self.is_tower else "model"
        if match := _SLICE.fullmatch(self.index):
            start, stop, step = (int(part) if part else None for part in match.groups())
            for bound in (start, stop):
                if bound is not None and not -depth <= bound <= depth:
                    raise ValueError(f"{self}: {bound} is out of range; the {owner} has layers 0 to {depth - 1}")
            chosen = tuple(range(depth)[start:stop:step])
            if not chosen:
                raise ValueError(f"{self} names no layer; the {owner} has layers 0 to {depth - 1}")
            return chosen
        wanted = [int(part) for part in self.index.split(",")]
        if bad := [layer for layer in wanted if not -depth <= layer < depth]:
            raise ValueError(f"{self}: layer {bad[0]} is out of range; the {owner} has layers 0 to {depth - 1}")
        return tuple(sorted({layer % depth for layer in wanted}))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def read(value: Any) -> Site:
            if isinstance(value, Site):
                return value
            if not isinstance(value, str):
                raise ValueError(f"a site is a string, got {value!r}; expected {FORMS}")
            return cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="always")
        )
