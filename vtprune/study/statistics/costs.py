"""What each variant costs, as shares of the unpruned model's cost on the same samples.

A share is the ratio of totals: what a whole task costs. The unpruned model's own rows are the measure, so that an
image made smaller before the model sees it shows its saving too. Without them a variant's own rows name the cost
unpruned, except where the image was made smaller: then the share is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from vtprune.study.statistics.accuracy import unpruned
from vtprune.study.statistics.frames import Row
from vtprune.study.statistics.panel import Panel

if TYPE_CHECKING:
    from vtprune.study.results import Results

SHARES: Mapping[str, tuple[str, str]] = {
    "retained_input": ("input_tokens", "vision_tokens"),
    "retained_mean": ("mean_tokens", "vision_tokens"),
    "retained_kv": ("mean_kv_tokens", "vision_tokens"),
    "retained_kv_bytes": ("kv_bytes", "kv_bytes_full"),
    "retained_flops": ("flops", "flops_full"),
}
"""Column of the summary: column of the variant's rows over column of the unpruned model's rows."""
COSTS: Mapping[str, type] = {**dict.fromkeys(SHARES, float), "seconds": float, "evicts_only": bool, "one_token": float}
NAN = float("nan")


def cost_rows(panel: Panel, results: Results) -> list[Row]:
    """For each arm: `SHARES` (vision tokens entering layer 0, entering a layer on average and in the cache on average;
    bytes of the cache; FLOPs) and ``seconds`` per sample, processor and ``generate`` together, mean over all samples.

    evicts_only: every layer read all vision tokens, and some left the cache afterwards: then the first token of each
    answer is that of the model without eviction. one_token: share of the answers that have no second token.
    """
    numbers = ["sample", "new_tokens", *sorted({column for pair in SHARES.values() for column in pair})]
    rows = {cell: part[numbers] for cell, part in results.samples.groupby("cell", sort=False)}
    times = dict(iter(results.times.groupby("cell", sort=False)))
    return [
        _shares(panel, i, rows)
        | {"seconds": _seconds([times[cell] for cell in arm.cells if cell in times])}
        | _eviction([rows[cell] for cell in arm.cells if cell in rows])
        for i, arm in enumerate(panel.arms)
    ]


def _shares(panel: Panel, i: int, rows: Mapping[str, pd.DataFrame]) -> Row:
    own, full = _mean_over_seeds(panel, i, rows), unpruned(panel, panel.arms[i])
    base = _mean_over_seeds(panel, full, rows) if full is not None else None
    if own is None or (base is None and panel.arms[i].downsample is not None):
        return dict.fromkeys(SHARES, NAN)
    if base is None:
        base = own
    common = own.index.intersection(base.index)
    totals, full_totals = own.loc[common].sum(), base.loc[common].sum()
    return {
        share: float(totals[part] / full_totals[whole]) if full_totals[whole] else NAN
        for share, (part, whole) in SHARES.items()
    }


def _eviction(parts: list[pd.DataFrame]) -> Row:
    if not parts:
        return {"evicts_only": False, "one_token": NAN}
    own = pd.concat(parts)
    whole = bool((own["mean_tokens"] == own["vision_tokens"]).all())
    fewer = bool((own["mean_kv_tokens"] < own["vision_tokens"]).any())
    return {"evicts_only": whole and fewer, "one_token": float((own["new_tokens"] <= 1).mean())}


def _mean_over_seeds(panel: Panel, i: int, rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    parts = [rows[cell] for cell in panel.arms[i].cells if cell in rows]
    return pd.concat(parts).groupby("sample").mean() if parts else None


def _seconds(times: list[pd.DataFrame]) -> float:
    samples = sum(int(part["samples"].sum()) for part in times)
    seconds = sum(float(part["prepare"].sum() + part["generate"].sum()) for part in times)
    return seconds / samples if samples else NAN
