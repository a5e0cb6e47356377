"""What reading attention costs, beside the attention of the same layer.

    python -m benchmarks.run probe

Time and memory of `attention_rows` (as the engine's tap calls it) for a few query rows of one layer, against the native
causal kernel of that layer; then, over whole pruned prefills, the largest single allocation: no N x N matrix may be
made.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import vtprune
from benchmarks.common import Shape, Took, allocations, finish, goal, llava, paired, prompt, timed
from vtprune.core.engine.attention import attention_rows

READS_ATTENTION: dict[str, dict[str, Any]] = {
    "last row, drop at layer 2": {
        "stages": [{"site": "llm.layers[2]", "scorer": {"name": "attention", "query": "last"}, "budget": 0.25}]
    },
    "text rows, drop at layer 2": {
        "stages": [{"site": "llm.layers[2]", "scorer": {"name": "attention", "query": "text"}, "budget": 0.25}]
    },
    "all rows, drop at layer 2": {
        "stages": [{"site": "llm.layers[2]", "scorer": {"name": "attention", "query": "received"}, "budget": 0.25}]
    },
    "last row per head, evict everywhere": {
        "stages": [
            {
                "site": "llm.layers[0:].kv",
                "scorer": {"name": "attention", "query": "last", "head_reduction": "none"},
                "budget": 0.5,
            }
        ]
    },
}


def measure(
    tokens: int, heads: int, kv_heads: int, dim: int, rows: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> dict[str, Any]:
    """The last ``rows`` query rows of ``[1, heads, tokens, dim]`` against the kernel."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, tokens, dim, generator=generator).to(device, dtype)
        for count in (heads, kv_heads, kv_heads)
    )
    chosen = torch.arange(tokens - rows, tokens, device=device)[None]
    weights = torch.full((1, rows), 1 / rows, device=device)

    def kernel() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=kv_heads != heads
        )

    def probe() -> torch.Tensor:
        return attention_rows(query, key, None, chosen, weights, scaling=dim**-0.5, causal=True)

    probe_memory, kernel_memory = allocations(probe, device), allocations(kernel, device)
    # The probe is far shorter than the kernel: several in a row, and their mean, give the clocks something to read.
    several = 10

    def probes() -> Took:
        took = timed(lambda: [probe() for _ in range(several)], device)
        return Took(took.wall / several, took.cpu / several)

    return {
        "tokens": tokens,
        "heads": heads,
        "kv_heads": kv_heads,
        "dim": dim,
        "rows": rows,
        "probe_to_kernel": paired(lambda: timed(kernel, device), probes, repeats),
        "probe_peak_mib": round(probe_memory["peak"] / 2**20, 3),
        "probe_largest_mib": round(probe_memory["largest"] / 2**20, 3),
        "kernel_peak_mib": round(kernel_memory["peak"] / 2**20, 3),
    }


def largest_allocations(shape: Shape, device: torch.device) -> dict[str, Any]:
    """Largest single allocation of a prefill, without pruning and with each recipe, beside the bytes of N x N booleans.

    The model is narrow, so that even a boolean N x N matrix would be the largest thing it allocates.
    """
    model = llava(shape, device, torch.float32)
    inputs = prompt(shape, device, torch.float32)

    def forward() -> None:
        with torch.no_grad():
            model(**inputs, use_cache=True, logits_to_keep=1)

    length = inputs["input_ids"].shape[1]
    found: dict[str, Any] = {"tokens": length, "bool_square_bytes": length**2}
    found["unpruned"] = allocations(forward, device)
    for name, recipe in READS_ATTENTION.items():
        with vtprune.prune(model, recipe):
            found[name] = allocations(forward, device)
    return found


def main(options: argparse.Namespace) -> None:
    """Measure; a bare run prints, ``--results`` writes."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or "float32")
    repeats = options.repeats or (2 if options.toy else 15)
    tokens, heads, dim = (160, 4, 16) if options.toy else (2880, 32, 128)
    cases = [
        measure(tokens, heads, kv_heads, dim, rows, dtype, device, repeats)
        for kv_heads in (heads, heads // 4)
        for rows in ((1, 16) if options.toy else (1, 16, 64))
    ]
    narrow = Shape(16, 3, 2, 2, 24, 64, 16, 2, side=8 if options.toy else 24, images=2 if options.toy else 5)
    squares = largest_allocations(narrow, device)
    goals = []
    for case in cases:
        if case["rows"] == 1:
            name = f"one row, {case['heads']}/{case['kv_heads']} heads"
            goals.append(goal(f"probe time / kernel time, {name}", case["probe_to_kernel"]["cpu"]["ratio"], 0.02))
            goals.append(goal(f"probe peak memory in MiB, {name}", case["probe_peak_mib"], 5))
    for name in READS_ATTENTION:
        share = squares[name]["largest"] / squares["bool_square_bytes"]
        goals.append(goal(f"largest allocation / bytes of N x N booleans, {name}", share, 0.99))
    finish("probe", options, {"cases": cases, "largest_allocations": squares}, goals)
