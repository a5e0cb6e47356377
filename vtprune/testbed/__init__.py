"""The embedded default: a miniature LLaVA, its processor and two photographs, all of them made or stored offline.

Importing this package costs nothing: torch and transformers are imported when `load_default` is first looked up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtprune.testbed.default import DEFAULT_NOTE, default_prompt, load_default
    from vtprune.testbed.pictures import photo, photos

__all__ = ["DEFAULT_NOTE", "default_prompt", "load_default", "photo", "photos"]

_HOME = {
    "DEFAULT_NOTE": "default",
    "default_prompt": "default",
    "load_default": "default",
    "photo": "pictures",
    "photos": "pictures",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
