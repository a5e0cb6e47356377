"""The hook has a misspelt name, so that nothing would ever call it."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_registr(registrar: Registrar) -> None:
    registrar.add("scorer", "entropy", "vtprune.scorers.random:Random", summary="never registered")
