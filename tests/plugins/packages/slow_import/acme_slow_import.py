"""Works, but takes a second to import."""

import time

from vtprune.plugin import Registrar, hookimpl

time.sleep(1)


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("scorer", "patient", "vtprune.scorers.random:Random", summary="registered late")
