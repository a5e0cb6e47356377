"""The hook raises before it registers anything."""

from vtprune.plugin import Registrar, hookimpl


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    raise RuntimeError("the licence server of acme is down")
