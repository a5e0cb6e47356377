"""A plugin as it should be: its registration imports nothing but the hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtprune.plugin import hookimpl

if TYPE_CHECKING:
    from vtprune.plugin import Registrar

VTPRUNE_API = 1


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    registrar.add("scorer", "lean", "acme_good.components:Lean", summary="a scorer that leans on feature norms")
    registrar.add("allocator", "in_turn", "acme_good.components:InTurn", summary="one image after another")
    registrar.add("selector", "middle", "acme_good.components:Middle", summary="scores around a quantile")
    registrar.add("reducer", "blur", "acme_good.components:Blur", summary="a share of the mean of what goes")
    registrar.add("recipe", "lean", "acme_good:lean.yaml", summary="every component of this package")
    registrar.add("task", "squares", "acme_good.task:Squares", summary="squares of one colour")
