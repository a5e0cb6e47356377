"""Works, but imports torch to register: it names its class through a module that needs torch."""

from torch import nn

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    assert nn.Module
    registrar.add("scorer", "weighty", "vtprune.scorers.random:Random", summary="registered with torch in memory")
