"""Another package's adapters: a family under a name of its own, once with a tiny model and once without."""

from __future__ import annotations

from dataclasses import replace

from vtprune.adapters.llava import ADAPTER as LLAVA
from vtprune.core.registry import Registration, Registry

HERE = __name__
NAME, BARE = "acme/house", "acme/bare"
ADAPTER = replace(LLAVA, name=NAME, tiny="vtprune.testing.models.llava:tiny_llava")
WITHOUT = replace(LLAVA, name=BARE)


def registered(module: str = HERE) -> Registry:
    """A registry that holds both; ``module`` is the one that their package's entry point names."""
    found = Registry()
    for name, attribute in ((NAME, "ADAPTER"), (BARE, "WITHOUT")):
        found.add(Registration("adapter", name, f"{HERE}:{attribute}", "a house", None, "acme", "1.0", module))
    return found
