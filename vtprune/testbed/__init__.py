"""Miniature models, scenes and questions that come with vtprune; nothing is downloaded.

`load` gives a trained model of the testbed by name, `vtprune.testbed.tasks.Testbed` asks it questions, and
`load_default` builds a larger model with random weights for photographs. Importing this package costs nothing: torch
and transformers are imported when a function that needs them is first called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtprune.testbed.default import DEFAULT_NOTE, default_prompt, load_default
    from vtprune.testbed.models import load, names
    from vtprune.testbed.pictures import photo, photos

__all__ = ["DEFAULT_NOTE", "default_prompt", "load", "load_default", "names", "photo", "photos"]

_HOME = {
    "DEFAULT_NOTE": "default",
    "default_prompt": "default",
    "load": "models",
    "load_default": "default",
    "names": "models",
    "photo": "pictures",
    "photos": "pictures",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
