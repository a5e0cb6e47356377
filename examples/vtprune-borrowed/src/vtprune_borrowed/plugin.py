"""What this package registers. Imported whenever vtprune looks for plugins, so it imports nothing heavy."""

from __future__ import annotations

from vtprune.plugin import Registrar, hookimpl

VTPRUNE_API = 1


@hookimpl
def vtprune_register(registrar: Registrar) -> None:
    """Called once, by vtprune."""
    registrar.add(
        "scorer",
        "value_attention",
        "vtprune_borrowed.value_attention:ValueAttention",
        summary="attention to a token times the norm of its value",
        paper="arXiv 2406.12335",
    )
    registrar.add(
        "selector",
        "mmr",
        "vtprune_borrowed.mmr:Mmr",
        summary="high scores, less what resembles tokens already kept (maximal marginal relevance)",
        paper="doi 10.1145/290941.291025",
    )
    registrar.add(
        "allocator",
        "shared_budget",
        "vtprune_borrowed.shared_budget:SharedBudget",
        summary="heads and images compete for the tokens of a layer",
        paper="arXiv 2407.11550",
    )
    registrar.add(
        "recipe",
        "value_aware_heads",
        "vtprune_borrowed:recipes/value_aware_heads.yaml",
        summary="attention times value norm, heads of unequal size, evicted from the KV cache",
        paper="arXiv 2406.12335",
    )
    registrar.add(
        "recipe",
        "relevant_and_new",
        "vtprune_borrowed:recipes/relevant_and_new.yaml",
        summary="like the question, unlike one another, dropped before decoder layer 2",
        paper="doi 10.1145/290941.291025",
    )
