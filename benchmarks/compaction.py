"""Evicting half of a cache layer, per KV head, against copying as many bytes as it writes.

    python -m benchmarks.run compaction

The measure is ``clone()`` of two tensors of the size of what is kept (keys and values): what any compaction must
write, read once and in order. ``evict`` is all of `PrunedLayer.evict`, its index and position bookkeeping included;
``compact`` is finding the kept slots and gathering them. The cache layer is rebuilt before every run, outside the
timing.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.common import Took, finish, goal, paired, timed
from vtprune.core.engine.cache import PrunedLayer
from vtprune.core.engine.storage import compact, flat_index

TEXT = 64


def measure(
    heads: int, tokens: int, dim: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Compaction of one layer ``[1, heads, tokens, dim]``: text stays, each head drops its own half of the rest."""
    keys = torch.randn(1, heads, tokens, dim).to(device, dtype)
    values = torch.randn(1, heads, tokens, dim).to(device, dtype)
    vision = tokens - TEXT
    keep = torch.ones(1, heads, tokens, dtype=torch.bool, device=device)
    keep[..., :vision] = torch.rand(1, heads, vision).argsort(-1).argsort(-1).to(device) < vision // 2
    like = [torch.randn(1, heads, tokens - vision + vision // 2, dim).to(device, dtype) for _ in range(2)]

    def copy() -> Took:
        return timed(lambda: [tensor.clone() for tensor in like], device)

    def evict() -> Took:
        layer = PrunedLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values, layer.cumulative_length = keys, values, tokens
        return timed(lambda: layer.evict(keep), device)

    def gather() -> Took:
        return timed(lambda: compact(keys, values, flat_index(keep)), device)

    written = sum(tensor.nbytes for tensor in like)
    return {
        "kv_heads": heads,
        "tokens": tokens,
        "dim": dim,
        "dtype": str(dtype).removeprefix("torch."),
        "written_mib": round(written / 2**20, 2),
        "evict": paired(copy, evict, repeats, warmup=5),
        "compact": paired(copy, gather, repeats, warmup=5),
        "control": paired(copy, copy, repeats, warmup=5),
    }


def main(options: argparse.Namespace) -> None:
    """Measure every size and type; a bare run prints, ``--results`` writes."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    repeats = options.repeats or (3 if options.toy else 200)
    heads, sizes, dim = (4, (128,), 16) if options.toy else (32, (640, 2944), 128)
    dtypes = [getattr(torch, options.dtype)] if options.dtype else [torch.float32, torch.bfloat16]
    cases = [measure(heads, tokens, dim, dtype, device, repeats) for tokens in sizes for dtype in dtypes]
    goals = []
    for case in cases:
        name = f"{heads} KV heads, {case['tokens']} tokens, {case['dtype']}"
        for what in ("evict", "compact"):
            speed = 1 / case[what]["wall"]["ratio"]
            goals.append(goal(f"{what} speed relative to memcpy, {name}", speed, 0.7, at_most=False))
    finish("compaction", options, {"cases": cases}, goals)
