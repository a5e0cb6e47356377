"""What this package registers. Imported whenever vtprune looks for plugins, so it imports nothing heavy."""

from __future__ import annotations

from vtprune.plugin import Registrar, hookimpl

VTPRUNE_API = 1


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    """Called once, by vtprune."""
    registrar.add(
        "adapter",
        "deepseek_vl",
        "vtprune_deepseek.adapter:ADAPTER",
        summary="DeepSeek-VL with one vision tower",
        paper="arXiv 2403.05525",
    )
    registrar.add(
        "reducer",
        "soft_merge",
        "vtprune_deepseek.soft_merge:SoftMerge",
        summary="each dropped token is shared out among the kept tokens that resemble it",
        paper="arXiv 2411.17686",
    )
