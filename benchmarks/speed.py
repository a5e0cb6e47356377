"""Prefill and decoding of a pruned model against the same model without hooks.

    python -m benchmarks.run speed

A LLaVA-like model (hidden 512, 12 layers, 8 heads, 576 vision tokens and 64 of text, random weights). Both sides are
objects that share every weight; one of them stays inside `vtprune.prune`. Prefill is ``model(..., use_cache=True,
logits_to_keep=1)``: as a whole, and from the projector's end on (the language-model part). Decoding alternates single
steps of the two models, each with its own cache, on fixed tokens. Ratios are pruned time / plain time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

import vtprune
from benchmarks.common import (
    IMAGE_TOKEN,
    Shape,
    Took,
    finish,
    goal,
    llava,
    paired,
    prompt,
    summary,
    timed,
    twin,
)
from vtprune import Report

Recipe = dict[str, Any]
NEXT_TOKEN = 5


def drop(site: str, scorer: str, keep: float) -> Recipe:
    """A recipe of one stage that drops tokens."""
    return {"stages": [{"site": site, "scorer": scorer, "budget": keep}]}


def per_head(keep: float) -> Recipe:
    """PLPHP with the same retention in every layer."""
    return {
        "stages": [
            {
                "site": "llm.layers[0:].kv",
                "scorer": {"name": "attention", "query": "last", "head_reduction": "none"},
                "allocator": {"name": "reattention", "query": "last", "delta": 0.0},
                "scope": "image",
                "budget": keep,
            }
        ]
    }


KEEP_ALL: dict[str, Recipe] = {
    "fastv, keep all": drop("llm.layers[2]", "attention", 1.0),
    "plphp, keep all": per_head(1.0),
    "random at projector.output, keep all": drop("projector.output", "random", 1.0),
}
DROPPING: dict[str, Recipe] = {
    "random at projector.output, keep 25 %": drop("projector.output", "random", 0.25),
    "fastv at layer 2, keep 25 %": drop("llm.layers[2]", "attention", 0.25),
}


@dataclass
class Side:
    """One model object, its inputs, and the clock reading at the end of its projector."""

    model: Any
    inputs: dict[str, torch.Tensor]
    device: torch.device

    def __post_init__(self) -> None:
        self._projected = Took(0.0, 0.0)
        self.model.base_model.multi_modal_projector.register_forward_hook(self._note)

    def _note(self, *_: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._projected = Took(time.perf_counter(), time.process_time())

    def prefill(self) -> tuple[Took, Took, Any]:
        """The time of the whole prefill, of its language-model part, and the cache."""
        made: list[Any] = []
        took = timed(lambda: made.append(self.model(**self.inputs, use_cache=True, logits_to_keep=1)), self.device)
        end = Took(time.perf_counter(), time.process_time())
        language = Took(end.wall - self._projected.wall, end.cpu - self._projected.cpu)
        return took, language, made[0].past_key_values

    def step(self, cache: Any) -> Took:
        """One decoding step on a fixed token."""
        token = torch.full((1, 1), NEXT_TOKEN, device=self.device)
        return timed(lambda: self.model(input_ids=token, past_key_values=cache, use_cache=True), self.device)


def _alternate(repeat: int, plain: Callable[[], Any], pruned: Callable[[], Any]) -> tuple[Any, Any]:
    if repeat % 2:
        late = pruned()
        return plain(), late
    return plain(), pruned()


@torch.no_grad()
def compare(plain: Side, pruned: Side, repeats: int, rounds: int, steps: int) -> dict[str, Any]:
    """Paired prefills, then ``rounds`` times a fresh pair of caches and ``steps`` pairs of decoding steps."""
    whole, language, decoding = [], [], []
    for repeat in range(-1, repeats):
        one, other = _alternate(repeat, plain.prefill, pruned.prefill)
        if repeat >= 0:
            whole.append((one[0], other[0]))
            language.append((one[1], other[1]))
    for _ in range(rounds):
        caches = plain.prefill()[2], pruned.prefill()[2]
        for step in range(-4, steps):
            pair = _alternate(step, partial(plain.step, caches[0]), partial(pruned.step, caches[1]))
            if step >= 0:
                decoding.append(pair)
    return {"prefill": summary(whole), "language_model": summary(language), "decoding_step": summary(decoding)}


@torch.no_grad()
def ceiling(plain: Side, keep: float, repeats: int) -> dict[str, Any]:
    """What perfect removal before the language model could reach: the unhooked model on a text prompt of the length
    that is left, against the language-model part of the full prompt."""
    ids = plain.inputs["input_ids"]
    vision = int((ids == IMAGE_TOKEN).sum())
    short = torch.full((1, ids.shape[1] - vision + round(keep * vision)), NEXT_TOKEN, device=plain.device)

    def left() -> Took:
        return timed(lambda: plain.model(input_ids=short, use_cache=True, logits_to_keep=1), plain.device)

    return {"tokens": short.shape[1], "language_model": paired(lambda: plain.prefill()[1], left, repeats)}


def theory(report: Report, model: Any) -> dict[str, float]:
    """What FLOPs promise for the prefill and bytes for a decoding step.

    A decoding step reads every weight of the language model once, and moves the KV cache three times: the cache of
    transformers grows by concatenation (a read and a write), then attention reads it.
    """
    parts = report.flops_parts
    language = model.base_model.language_model
    weights = sum(p.nbytes for p in language.layers.parameters()) + model.get_output_embeddings().weight.nbytes
    return {
        "language_model_speedup_by_flops": parts["prefill_full"] / parts["prefill"],
        "prefill_speedup_by_flops": (parts["vision"] + parts["prefill_full"]) / (parts["vision"] + parts["prefill"]),
        "vision_share_of_flops": parts["vision"] / (parts["vision"] + parts["prefill_full"]),
        "kv_ratio": report.kv_bytes / report.kv_bytes_full,
        "decoding_speedup_by_bytes": (weights + 3 * report.kv_bytes_full) / (weights + 3 * report.kv_bytes),
    }


def case(sides: tuple[Side, Side], recipe: Recipe | None, scale: tuple[int, int, int]) -> dict[str, Any]:
    """A recipe (or None: two unhooked models, the control) against the unhooked model."""
    plain, pruned = sides
    if recipe is None:
        return compare(plain, pruned, *scale)
    with vtprune.prune(pruned.model, recipe) as run:
        found = compare(plain, pruned, *scale)
        promised = theory(run.reports[0], plain.model)
    ratios = {name: round(value, 4) for name, value in promised.items()}
    return {**found, **ratios, "stage_ms": round(1e3 * sum(run.reports[-1].stage_seconds), 3)}


def _sides(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Side, Side]:
    model = llava(shape, device, dtype)
    inputs = prompt(shape, device, dtype)
    return Side(model, inputs, device), Side(twin(model), inputs, device)


def goals_of(cases: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals of this benchmark."""
    goals = []
    for name in KEEP_ALL:
        for part in ("prefill", "decoding_step"):
            goals.append(goal(f"{part} time relative to unhooked: {name}", cases[name][part]["cpu"]["ratio"], 1.02))
    for name in DROPPING:
        for part in ("language_model", "prefill"):
            share = 1 / cases[name][part]["cpu"]["ratio"] / cases[name][f"{part}_speedup_by_flops"]
            goals.append(goal(f"{part} speed-up / speed-up by FLOPs: {name}", share, 0.85, at_most=False))
    return goals


def main(options: argparse.Namespace) -> None:
    """Measure every recipe; a bare run prints, ``--results`` writes."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or "float32")
    shape = Shape(32, 3, 2, 2, 48, 64, 32, 2, side=4, text=8) if options.toy else Shape()
    scale = (2, 1, 2) if options.toy else (options.repeats or 11, 4, 32)
    cases: dict[str, dict[str, Any]] = {}
    sides = _sides(shape, device, dtype)
    recipes = {"control": None, **KEEP_ALL, **DROPPING, "plphp, keep 25 % of the cache": per_head(0.25)}
    for name, recipe in recipes.items():
        cases[name] = case(sides, recipe, scale)
        print(name, _line(cases[name]), flush=True)
    limit = ceiling(sides[0], 0.25, scale[0])
    print(f"ceiling at 25 %: x{limit['language_model']['cpu']['ratio']:.3f} cpu", flush=True)
    longer = replace(shape, images=2 if options.toy else 5)
    sides = _sides(longer, device, dtype)
    scale = scale if options.toy else (3, 2, 32)
    name = "plphp, keep 25 % of the cache, 5 images"
    cases[name] = case(sides, per_head(0.25), scale)
    print(name, _line(cases[name]), flush=True)
    finish(
        "speed", options, {"shape": vars(shape), "dtype": str(dtype), "ceiling": limit, "cases": cases}, goals_of(cases)
    )


def _line(found: dict[str, Any]) -> str:
    parts = [
        f"{part} x{found[part]['cpu']['ratio']:.3f} cpu, x{found[part]['wall']['ratio']:.3f} wall"
        for part in ("prefill", "language_model", "decoding_step")
    ]
    return "; ".join(parts)
