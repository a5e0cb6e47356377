"""The studies that come with vtprune, one YAML file each; its header says what it shows and how to change it."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

import yaml

from vtprune.core.errors import UnknownNameError, did_you_mean


def shipped() -> dict[str, str]:
    """Name to description."""
    found = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".yaml"))
    names = [name.removesuffix(".yaml") for name in found]
    return {name: str(yaml.safe_load(read(name)).get("description", "")) for name in names}


def path(name: str) -> Traversable:
    """The file of one of them; raises UnknownNameError for another name."""
    if name not in (known := shipped()):
        raise UnknownNameError(f"unknown study {name!r}.{did_you_mean(name, known)}")
    return files(__name__).joinpath(f"{name}.yaml")


def read(name: str) -> str:
    """The text of one of them; raises FileNotFoundError for another name."""
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
