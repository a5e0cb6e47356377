"""Registers targets that cannot be had; that shows only when they are used."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("scorer", "no_module", "acme_bad_target.scorers:Entropy", summary="its module does not exist")
    registrar.add("scorer", "no_class", "acme_bad_target:Entropy", summary="its class does not exist")
    registrar.add("scorer", "no_scorer", "vtprune.selectors.top_k:TopK", summary="it is a selector")
    registrar.add("recipe", "no_file", "acme_bad_target:no_such.yaml", summary="its file does not exist")
    registrar.add("scorer", "fine", "vtprune.scorers.random:Random", summary="nothing is wrong with it")
