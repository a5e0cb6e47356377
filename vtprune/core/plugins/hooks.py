"""The hook that a plugin implements, and the number of the contract behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vtprune.core.plugins.registrar import Registrar

GROUP = "vtprune"
API = 1
"""Rises when what a plugin may rely on changes in a way that existing plugins notice; see docs/stability.md."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """Every hook of vtprune."""

    @hookspec
    def vtprune_register(self, registrar: Registrar) -> None:
        """Register components, adapters, recipes and tasks with ``registrar.add``. Import nothing heavy here."""
