"""Methods of a model replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute for a while; somebody else's later replacement is left alone."""
    held: Mapping[str, Any] = owner.__dict__
    had, before = name in held, held.get(name)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if held.get(name) is value:
            if had:
                owner.__dict__[name] = before
            else:
                del owner.__dict__[name]
