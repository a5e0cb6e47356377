"""Calibrating PLPHP's thresholds for a model: which layers count as attentive, balanced or indifferent.

PLPHP (arXiv 2502.14504) sets a layer's retention by comparing its vision attention with two thresholds. Their values
depend on the model, and the public sources do not give them; here they are set to quantiles of the attention that the
model shows on calibration prompts, so that the mean retention is the one asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.allocators.reattention import Reattention
from vtprune.api import prune
from vtprune.core.errors import BudgetError, VtpruneError

SCHEMA = 1


@dataclass(frozen=True)
class Calibration:
    """Thresholds for `Reattention` and what they rest on.

    alpha, beta: thresholds of the layer's vision attention, alpha >= beta. rate, delta: the retention levels they were
    made for. mean_retention: what they give on the calibration prompts; requested: what was asked for.
    vision_attention: mean over the prompts, per layer. prompts: how many samples were used.
    """

    alpha: float
    beta: float
    rate: float
    delta: float
    mean_retention: float
    requested: float
    vision_attention: tuple[float, ...]
    prompts: int
    model: str
    schema_version: int = SCHEMA

    def allocator(self) -> Reattention:
        """The calibrated allocator, with the base rate fixed."""
        return Reattention(rate=self.rate, delta=self.delta, alpha=self.alpha, beta=self.beta)

    def overrides(self) -> dict[str, float]:
        """Keyword arguments for `vtprune.prune(model, "plphp", ...)`."""
        prefix = "stages.0.allocator"
        return {
            "stages.0.budget": self.rate,
            f"{prefix}.delta": self.delta,
            f"{prefix}.alpha": self.alpha,
            f"{prefix}.beta": self.beta,
        }

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote; raises VtpruneError for another schema."""
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data.get("schema_version") != SCHEMA:
            raise VtpruneError(f"{path} has schema {data.get('schema_version')!r}; this version reads schema {SCHEMA}")
        return cls(**{**data, "vision_attention": tuple(data["vision_attention"])})


def calibrate_reattention(
    model: nn.Module,
    prompts: Iterable[Mapping[str, Any]],
    mean_retention: float,
    *,
    rate: float = 0.4,
    delta: float = 0.3,
    balanced: float = 1 / 3,
    query: str = "last",
    site: str = "llm.layers[0:].kv",
) -> Calibration:
    """Choose PLPHP's thresholds so that layers keep ``mean_retention`` of the vision tokens on average.

    prompts: processor outputs (keyword arguments of ``model(...)``), each a batch of any size with at least one image;
        a few dozen samples of the task are enough. Only prefills are run.
    rate, delta: the three levels are rate - delta, rate and rate + delta (clamped to [0, 1]).
    balanced: share of (sample, layer) pairs that keep the middle level; the rest is divided so that the mean is met.

    Raises BudgetError if no division of the levels gives the mean, VtpruneError without prompts.
    """
    attention = _observe(model, prompts, query, site)
    low, high = max(0.0, rate - delta), min(1.0, rate + delta)
    attentive, indifferent = _shares(mean_retention, low, rate, high, balanced)
    flat = attention.flatten().sort().values
    beta = _between(flat, round(indifferent * len(flat)))
    alpha = _between(flat, len(flat) - round(attentive * len(flat)))
    levels = torch.where(attention >= alpha, high, torch.where(attention < beta, low, rate))
    return Calibration(
        alpha=alpha,
        beta=beta,
        rate=rate,
        delta=delta,
        mean_retention=float(levels.mean()),
        requested=mean_retention,
        vision_attention=tuple(attention.mean(0).tolist()),
        prompts=len(attention),
        model=type(model).__name__,
    )


def _observe(model: nn.Module, prompts: Iterable[Mapping[str, Any]], query: str, site: str) -> Tensor:
    """float64 ``[sample, layer]``: each layer's vision attention on prompts that keep everything."""
    stage = {
        "site": site,
        "scorer": {"name": "attention", "query": query},
        "allocator": {"name": "reattention", "rate": 1.0, "delta": 0.0, "query": query},
    }
    rows: list[list[float]] = []
    with prune(model, {"stages": [stage]}) as run, torch.no_grad():
        for inputs in prompts:
            model(**inputs, use_cache=True)
            found: dict[int, list[float]] = {}
            for event in run.report.events:
                if "vision_attention" in event.diagnostics:
                    found.setdefault(event.sample, []).append(event.diagnostics["vision_attention"])
            rows.extend(found.values())
    if not rows:
        raise VtpruneError("no calibration prompt was given; pass at least one processor output with an image")
    return torch.tensor(rows, dtype=torch.float64)


def _shares(mean: float, low: float, middle: float, high: float, balanced: float) -> tuple[float, float]:
    """The shares of the high and of the low level that give the mean next to ``balanced`` of the middle one."""
    outer = 1 - balanced
    if not 0 <= balanced <= 1 or low == high:
        raise BudgetError(f"cannot calibrate with balanced={balanced} and levels {low}, {middle}, {high}")
    attentive = (mean - balanced * middle - outer * low) / (high - low)
    if not -1e-9 <= attentive <= outer + 1e-9:
        least, most = (balanced * middle + outer * level for level in (low, high))
        raise BudgetError(
            f"mean_retention={mean} cannot be reached with levels {low:g}, {middle:g}, {high:g} and a balanced share "
            f"of {balanced:.3g}: it can lie between {least:.3g} and {most:.3g}; change rate, delta or balanced"
        )
    attentive = min(max(attentive, 0.0), outer)
    return attentive, outer - attentive


def _between(ordered: Tensor, count: int) -> float:
    """A threshold with ``count`` values strictly below it (as far as ties allow)."""
    if count <= 0:
        return 0.0
    if count >= len(ordered):
        return 1.0
    return float((ordered[count - 1] + ordered[count]) / 2)
