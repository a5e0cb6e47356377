"""An adapter for a model class that another distribution claims too."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("adapter", "house", "rival_house.adapter:ADAPTER", summary="a house's own LLaVA")
