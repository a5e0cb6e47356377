"""What the benchmarks share: paired timing, memory tracking, a model of realistic shape, and the result files.

Timing is always of pairs: the two variants run one after the other, the order swaps from pair to pair, and the median
of the ratios within pairs is reported, by wall time and by CPU time of the process. Other work on the machine then hits
both sides; what is left shows in the spread and in the control, a pair of two identical variants.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlavaConfig, LlavaForConditionalGeneration

RESULTS = Path(__file__).parent / "results"
IMAGE_TOKEN = 3


@dataclass(frozen=True)
class Took:
    """Seconds of one run, by the wall clock and of the process's CPU time."""

    wall: float
    cpu: float


def timed(function: Callable[[], object], device: torch.device) -> Took:
    """Time one call, waiting for the device before and after; its result is freed outside the timing."""
    _synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    _synchronise(device)
    took = Took(time.perf_counter() - wall, time.process_time() - cpu)
    del result
    return took


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def paired(base: Callable[[], Took], other: Callable[[], Took], repeats: int, warmup: int = 1) -> dict[str, Any]:
    """Run two self-timing variants in alternating order; see `summary`."""
    for _ in range(warmup):
        base()
        other()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            second = other()
            pairs.append((base(), second))
        else:
            pairs.append((base(), other()))
    return summary(pairs)


def summary(pairs: Sequence[tuple[Took, Took]]) -> dict[str, Any]:
    """Medians of the times and of the ratio other / base within pairs, with its quartiles."""
    found: dict[str, Any] = {"repeats": len(pairs)}
    for clock in ("wall", "cpu"):
        base = [getattr(pair[0], clock) for pair in pairs]
        other = [getattr(pair[1], clock) for pair in pairs]
        ratios = sorted(late / early for early, late in zip(base, other, strict=True) if early)
        if not ratios:
            continue
        low, middle, high = _quartiles(ratios)
        found[clock] = {
            "base_ms": round(1e3 * statistics.median(base), 4),
            "other_ms": round(1e3 * statistics.median(other), 4),
            "ratio": round(middle, 4),
            "ratio_quartiles": [round(low, 4), round(high, 4)],
            # A median's standard error, from the quartiles of a roughly normal sample.
            "ratio_error": round(1.253 * (high - low) / 1.349 / len(ratios) ** 0.5, 4),
        }
    return found


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def allocations(function: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Bytes that a call allocates: the peak above the start, and the largest single allocation (0 on CUDA)."""
    function()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return {"peak": torch.cuda.max_memory_allocated(device) - before, "largest": 0}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    assert record.profiler is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak, largest = max(peak, now), max(largest, event.nbytes())
    return {"peak": peak, "largest": largest}


@dataclass(frozen=True)
class Shape:
    """A LLaVA-like model. vision_tokens must be a square number times ``images``."""

    hidden: int = 512
    layers: int = 12
    heads: int = 8
    kv_heads: int = 8
    intermediate: int = 1376
    vocabulary: int = 4096
    vision_hidden: int = 256
    vision_layers: int = 6
    side: int = 24
    images: int = 1
    text: int = 64


def llava(shape: Shape, device: torch.device, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights (standard deviation 0.02, seed 0) and sdpa attention."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 4 * shape.vision_hidden,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": max(shape.vision_hidden // 64, 1),
            "image_size": 14 * shape.side,
            "patch_size": 14,
            "projection_dim": shape.vision_hidden,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 16384,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        image_token_index=IMAGE_TOKEN,
        image_seq_length=shape.side**2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False).to(device, dtype)
    model.set_attn_implementation("sdpa")
    return model


def twin(model: nn.Module) -> Any:
    """A second model object that shares every weight, so that one can be hooked while the other is not."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def prompt(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Half of the text, the images, the other half."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(4, shape.vocabulary, (shape.text,), generator=generator)
    vision = torch.full((shape.images * shape.side**2,), IMAGE_TOKEN)
    ids = torch.cat([words[: shape.text // 2], vision, words[shape.text // 2 :]])[None]
    pixels = torch.randn(shape.images, 3, 14 * shape.side, 14 * shape.side, generator=generator)
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "pixel_values": pixels.to(device, dtype),
    }


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cuda is untested)")
    parser.add_argument("--dtype", default=None, help="float32 or bfloat16; the default is the benchmark's own")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--repeats", type=int, default=None, help="pairs per comparison")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to see that the script works")
    parser.add_argument("--results", type=Path, default=None, help="folder of the JSON file; not written by default")
    return parser


def goal(name: str, measured: float, limit: float, at_most: bool = True) -> dict[str, Any]:
    """One line of the goals table."""
    met = measured <= limit if at_most else measured >= limit
    return {"goal": name, "limit": f"{'<=' if at_most else '>='} {limit:g}", "measured": round(measured, 4), "met": met}


def finish(name: str, options: argparse.Namespace, records: Mapping[str, Any], goals: list[dict[str, Any]]) -> None:
    """Print the goals, and write everything as ``<name>-<device>.json`` if a folder was given."""
    for line in goals:
        print(f"{'met   ' if line['met'] else 'MISSED'} {line['goal']}: {line['measured']} (goal {line['limit']})")
    if options.results is None:
        return
    options.results.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, **machine(options.device), "goals": goals, **records}
    path = options.results / f"{name}-{options.device}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def machine(device: str) -> dict[str, Any]:
    """What ran: versions, processor, threads, date and how busy the machine was."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("vtprune", "torch", "transformers") if _has(package)},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _has(package: str) -> bool:
    try:
        version(package)
    except ModuleNotFoundError:
        return False
    return True


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
