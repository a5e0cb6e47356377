"""Written for a plugin API that is no more: its hook must not be called."""

from typing import Any

from vtprune.plugin import hookimpl

VTPRUNE_API = (-1, 0)


@hookimpl
def vtprune_register(registrar: Any) -> None:
    raise AssertionError("the hook of a plugin for another API was called")
