"""Answering the samples of a cell: load, encode, prune, generate, score, and one chunk of rows per batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
from transformers import PreTrainedModel

from vtprune.api import observe, prune
from vtprune.core.engine.cost import CostModel
from vtprune.core.errors import VtpruneError
from vtprune.core.layout import SampleLayout
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build
from vtprune.core.task import Sample, Task
from vtprune.loading import load_model, pick_device
from vtprune.study.cell import Cell, ModelRef
from vtprune.study.downsampling import Shrink, downsampled
from vtprune.study.prompts import encode
from vtprune.study.regions import annotation
from vtprune.study.rows import SampleRow, TimeRow

if TYPE_CHECKING:
    from vtprune.api import Run
    from vtprune.core.report import Report


class Claim(Protocol):
    """What a worker needs of the store's claim on a cell."""

    chunks_done: int

    def append(self, rows: list[SampleRow], time: TimeRow) -> None: ...

    def finish(self) -> None: ...


class TaskError(VtpruneError):
    """A task that breaks its contract: two samples with one id, or a score outside 0 to 1."""


class Worker:
    """Answers cells, one after another, and keeps the latest model and the latest task's samples.

    threads: of torch, on the CPU; part of what makes rows equal to the bit.
    """

    def __init__(self, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._model = lru_cache(maxsize=1)(_load)
        self._ref: ModelRef | None = None
        self._samples: tuple[Any, Task, list[Sample]] | None = None

    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        """Answer what the claim has not got yet, appending a chunk per batch, and finish the claim.

        progress: called with the number of samples of each chunk. Raises what goes wrong: LoadError, RecipeError,
        BindingError, PromptError, whatever a component or a task raises.
        """
        task, samples = self._task(cell)
        model, processor = self._loaded(cell.model)
        recipe = None if cell.variant.recipe is None else Recipe.parse(dict(cell.variant.recipe), cell.variant.label)
        run = observe(model) if recipe is None else prune(model, recipe)
        share = cell.variant.downsample
        located = any(sample.regions for sample in samples)
        smaller = nullcontext() if share is None else downsampled(model, processor, share)
        with smaller as shrink:
            for chunk, batch in enumerate(_batches(samples, cell.batch_size)):
                if chunk < claim.chunks_done:
                    continue
                given = Batch(cell, task, batch, chunk, shrink, located)
                rows, seconds = _answer(given, model, processor, run)
                claim.append(rows, seconds)
                progress(len(batch))
        claim.finish()

    def _loaded(self, ref: ModelRef) -> tuple[PreTrainedModel, Any]:
        if ref != self._ref:
            self._model.cache_clear()  # let go of the old model before the new one takes its memory
            self._ref = ref
        return self._model(ref)

    def _task(self, cell: Cell) -> tuple[Task, list[Sample]]:
        key = (dict(cell.task), cell.limit)
        if self._samples is None or self._samples[0] != key:
            task = build("task", cell.task)
            assert isinstance(task, Task)
            samples = list(islice(task.samples(), cell.limit))
            if twice := [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]:
                raise TaskError(f"task {cell.task['name']!r} gives the id {twice[0]!r} to several samples")
            self._samples = (key, task, samples)
        return self._samples[1:]


def _score(task: Task, sample: Sample, answer: str) -> float:
    score = float(task.score(sample, answer))
    if not 0 <= score <= 1:
        raise TaskError(
            f"{type(task).__name__}.score gave {score} for sample {sample.id!r}, expected a number from 0 to 1"
        )
    return score


def _load(ref: ModelRef) -> tuple[PreTrainedModel, Any]:
    return load_model(ref.id, ref.dtype, pick_device(ref.device), ref.attn, ref.revision)


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


@dataclass(frozen=True)
class Batch:
    """One chunk of a cell before it is answered. shrink: what makes its images smaller, if anything does. located:
    whether any sample of the cell (not only of this batch) has regions; where one has none, no token stands out."""

    cell: Cell
    task: Task
    samples: Sequence[Sample]
    chunk: int
    shrink: Shrink | None
    located: bool

    def inputs(self, processor: Any) -> Any:
        """What ``generate`` takes, on the CPU."""
        if self.shrink is None:
            return encode(processor, self.samples)
        return encode(processor, [self.shrink(sample) for sample in self.samples], self.shrink.images_kwargs)

    def annotation(self, number: int, layout: SampleLayout) -> torch.Tensor:
        """See `Run.annotate`."""
        grids = [segment.grid or (1, 1, len(segment)) for segment in layout.segments]
        return annotation(self.samples[number], grids)


def _answer(batch: Batch, model: Any, processor: Any, run: Run) -> tuple[list[SampleRow], TimeRow]:
    cell, task, samples = batch.cell, batch.task, batch.samples
    first = batch.chunk * cell.batch_size
    started = time.perf_counter()
    inputs = batch.inputs(processor).to(model.device, dtype=model.dtype)
    prepared = time.perf_counter()
    run.annotate(batch.annotation if batch.located else None)
    torch.manual_seed(0)
    with run, torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=task.max_new_tokens, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :].cpu()
    answered = time.perf_counter()
    texts = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    stop = {model.generation_config.pad_token_id, *_as_list(model.generation_config.eos_token_id)}
    lengths = [sum(token not in stop for token in row) for row in new.tolist()]
    rows: list[SampleRow] = [
        {
            "cell": cell.id,
            "index": first + number,
            "sample": sample.id,
            "type": sample.type,
            "group": sample.group,
            "answer": texts[number],
            "references": list(sample.references),
            "score": _score(task, sample, texts[number]),
            "new_tokens": lengths[number],
            **_costs(run.report, number, run.cost),
            "kept": _kept(cell, run.report, number) if first + number < cell.keep_indices else None,
        }
        for number, sample in enumerate(samples)
    ]
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    return rows, {
        "cell": cell.id,
        "chunk": batch.chunk,
        "samples": len(samples),
        "prepare": prepared - started,
        "generate": answered - prepared,
        "stages": list(run.report.stage_seconds),
        "device": device,
    }


class Costs(TypedDict):
    """The columns of `SampleRow` that a report gives."""

    prompt_tokens: int
    vision_tokens: int
    input_tokens: int
    mean_tokens: float
    mean_kv_tokens: float
    kv_bytes: int
    kv_bytes_full: int
    flops: int
    flops_full: int
    tokens_by_layer: list[int] | None
    kv_by_head: list[list[int]] | None


def _costs(report: Report, number: int, cost: CostModel) -> Costs:
    """What one sample of a batch cost, padding left out."""
    text, vision = report.text_tokens[number], report.layouts[number].vision
    by_layer, by_head = report.vision_tokens[number], report.kv_tokens[number]
    tower = round(report.flops_parts["vision"] / len(report.layouts))
    pruned = bool(report.recipe.stages)
    cached = [count for heads in by_head for count in heads]
    return {
        "prompt_tokens": text + vision,
        "vision_tokens": vision,
        "input_tokens": by_layer[0],
        "mean_tokens": sum(by_layer) / len(by_layer),
        "mean_kv_tokens": sum(cached) / len(cached),
        "kv_bytes": cost.kv_bytes([[text + count for count in heads] for heads in by_head]),
        "kv_bytes_full": cost.kv_bytes([text + vision] * len(by_layer)),
        "flops": tower + cost.prefill_with(by_layer, text),
        "flops_full": tower + cost.prefill_with([vision] * len(by_layer), text),
        "tokens_by_layer": list(by_layer) if pruned else None,
        "kv_by_head": [list(heads) for heads in by_head] if pruned else None,
    }


def _kept(cell: Cell, report: Report, number: int) -> list[int] | None:
    stages = len(report.recipe.stages)
    return report.kept(stages - 1, number) if stages and report.layouts[number].vision else None


def _as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else value
