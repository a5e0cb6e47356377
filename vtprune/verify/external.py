"""Tiny models of other packages: ``--model module:function``, and ``--family`` of an adapter that names its own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from vtprune.core.plugins import GROUP, registry
from vtprune.verify.subjects import UnknownVerificationError

if TYPE_CHECKING:
    from vtprune.testing.models.tiny import Tiny


def load(target: str) -> Callable[[str], Tiny]:
    """The function of a target ``module:function``, as ``(attention) -> Tiny``.

    The function takes the attention implementation (``"sdpa"`` or ``"eager"``) as its first argument, as those of
    `vtprune.testing.models` do. Modules of the current directory are found too.
    Raises UnknownVerificationError if there is no such module or function.
    """
    module, separator, name = target.partition(":")
    if not separator or not module or not name:
        raise UnknownVerificationError(f"{target!r} is not of the form module:function, such as mypackage.tiny:make")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UnknownVerificationError(
            f"--model {target}: {type(error).__name__}: {error}; expected an importable module and a function in it "
            f"that takes the attention implementation and returns a vtprune.testing.models.Tiny"
        ) from error
    if not callable(function) or not inspect.signature(function).parameters:
        raise UnknownVerificationError(
            f"--model {target}: {name} must be a function that takes the attention implementation, 'sdpa' or 'eager'"
        )
    made: Callable[[str], Tiny] = function
    return made


def packaged() -> list[str]:
    """The registered names of other packages' adapters."""
    return [entry.name for entry in registry().entries("adapter") if entry.origin != GROUP]


def load_packaged(family: str) -> Callable[[str], Tiny]:
    """What makes the tiny model of another package's adapter (`Adapter.tiny`), as ``(attention) -> Tiny``.

    Raises UnknownVerificationError if the adapter names none, UnknownNameError if there is no such adapter.
    """
    adapter = registry().load("adapter", family)
    if not adapter.tiny:
        raise UnknownVerificationError(
            f"the adapter {family!r} names no tiny model: set its field `tiny` to 'module:function', or give a "
            f"function that makes one as --model module:function"
        )
    return load(adapter.tiny)
