"""Time every built-in selector on one thread, beside the full Gram matrix of the same features.

    python benchmarks/selection.py
    python benchmarks/selection.py --tokens 2880 --counts 64 192 --json selection.json

A ratio below 1 means that the whole selection costs less than multiplying all pairs of features. Features are
synthetic: clusters with a shared mean, as vision features have. Times are the best of several runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from vtprune.core.component import Candidates, Selector
from vtprune.core.spec import build

SELECTORS: dict[str, dict[str, object]] = {
    "top_k": {"name": "top_k"},
    "threshold": {"name": "threshold", "value": 0.5},
    "top_p": {"name": "top_p", "p": 0.5},
    "greedy_suppression": {"name": "greedy_suppression"},
    "greedy_suppression relax": {"name": "greedy_suppression", "threshold": 0.5, "on_exhaustion": "relax"},
    "max_min": {"name": "max_min"},
    "max_min mean start": {"name": "max_min", "start": "farthest_from_mean"},
    "max_min euclidean": {"name": "max_min", "metric": "euclidean"},
    "facility_location": {"name": "facility_location"},
    "log_det": {"name": "log_det"},
    "log_det ridge 0": {"name": "log_det", "ridge": 0.0},
    "union top_k + max_min": {
        "name": "union",
        "share": 0.5,
        "first": "top_k",
        "second": {"name": "max_min", "start": "farthest_from_mean"},
    },
}


def clustered(rows: int, tokens: int, dim: int) -> torch.Tensor:
    """float32 ``[row, vision, dim]``: tokens / 24 clusters around a shared mean."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(rows, max(2, tokens // 24), dim, generator=generator)
    member = torch.randint(centres.shape[1], (rows, tokens, 1), generator=generator)
    noise = torch.randn(rows, tokens, dim, generator=generator)
    shared = torch.randn(rows, 1, dim, generator=generator)
    return shared + centres.gather(1, member.expand(-1, -1, dim)) + 0.5 * noise


def best_ms(function: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of ``repeats`` runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(rows: int, tokens: int, dim: int, counts: list[int], repeats: int) -> list[dict[str, object]]:
    """One record for each selector and count."""
    features = clustered(rows, tokens, dim)
    scores = torch.rand(rows, tokens, generator=torch.Generator().manual_seed(1))
    protected = torch.zeros(rows, tokens, dtype=torch.bool)
    gram = best_ms(lambda: torch.bmm(features, features.mT), repeats)
    records = []
    for label, spec in SELECTORS.items():
        selector = build("selector", spec)
        assert isinstance(selector, Selector)
        for count in counts:
            candidates = Candidates(torch.full((rows,), count), tokens, scores, features, protected)
            took = best_ms(lambda s=selector, c=candidates: s.select(c), repeats)
            records.append(
                {
                    "selector": label,
                    "rows": rows,
                    "tokens": tokens,
                    "dim": dim,
                    "count": count,
                    "ms": round(took, 3),
                    "gram_ms": round(gram, 3),
                    "ratio_to_gram": round(took / gram, 3),
                }
            )
    return records


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[576, 2880], help="vision tokens")
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 192], help="tokens to keep")
    parser.add_argument("--dim", type=int, default=1024, help="feature dimension")
    parser.add_argument("--rows", type=int, default=1, help="independent rows at once")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="also write the records to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records = []
    for tokens in options.tokens:
        found = measure(options.rows, tokens, options.dim, options.counts, options.repeats)
        title = f"N={tokens}, D={options.dim}, rows={options.rows}, Gram {found[0]['gram_ms']} ms"
        table = Table("selector", *(f"k={count}: ms (x Gram)" for count in options.counts), title=title)
        for label in SELECTORS:
            mine = [record for record in found if record["selector"] == label]
            table.add_row(label, *(f"{record['ms']:.2f} ({record['ratio_to_gram']:.2f})" for record in mine))
        Console().print(table)
        records += found
    if options.json:
        machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": options.threads}
        options.json.write_text(json.dumps({**machine, "records": records}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
