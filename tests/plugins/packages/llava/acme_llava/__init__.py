"""An adapter for a model class that a built-in adapter claims: it is used where a recipe asks for it."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("adapter", "llava", "acme_llava.adapter:ADAPTER", summary="LLaVA, as acme sees it")
