"""The hook raises after it registered two names: neither may stay."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("scorer", "one", "vtprune.scorers.random:Random", summary="registered first")
    registrar.add("selector", "two", "vtprune.selectors.top_k:TopK", summary="registered second")
    raise KeyError("three")
