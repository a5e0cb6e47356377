"""Registers one name for two classes."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("scorer", "first", "vtprune.scorers.random:Random", summary="would be fine on its own")
    registrar.add("scorer", "entropy", "vtprune.scorers.random:Random", summary="one class")
    registrar.add("scorer", "entropy", "vtprune.scorers.key_norm:KeyNorm", summary="another class")
