"""Optional dependencies, asked for at the moment they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from vtprune.core.errors import VtpruneError


class MissingExtraError(VtpruneError):
    """A library of an optional extra is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """The imported module; raises MissingExtraError, which names the pip command, if its library is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != library:
            raise
        raise MissingExtraError(f"{library} is not installed; run: pip install 'vtprune[{extra}]'") from error
