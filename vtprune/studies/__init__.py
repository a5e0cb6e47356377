"""The studies that come with vtprune, one YAML file each; its header says what it shows and how to change it."""

from __future__ import annotations

from importlib.resources import files

import yaml


def shipped() -> dict[str, str]:
    """Name to description."""
    found = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".yaml"))
    names = [name.removesuffix(".yaml") for name in found]
    return {name: str(yaml.safe_load(read(name)).get("description", "")) for name in names}


def read(name: str) -> str:
    """The text of one of them; raises FileNotFoundError for another name."""
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
