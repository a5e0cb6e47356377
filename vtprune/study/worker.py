"""Answering the samples of a cell: load, encode, prune, generate, score, and one chunk of rows per batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
from transformers import PreTrainedModel

from vtprune.api import observe, prune
from vtprune.core.errors import VtpruneError
from vtprune.core.layout import SampleLayout
from vtprune.core.lookup import locate
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build
from vtprune.core.task import Sample, Task
from vtprune.loading import load_model, pick_device
from vtprune.study import costs
from vtprune.study.cell import Cell, ModelRef
from vtprune.study.downsampling import Shrink, downsampled
from vtprune.study.prompts import encode
from vtprune.study.regions import Box, annotation, crop_of
from vtprune.study.rows import SampleRow, TimeRow
from vtprune.study.shares import kept_shares

if TYPE_CHECKING:
    from vtprune.api import Run
    from vtprune.core.report import Report


class Claim(Protocol):
    """What a worker needs of the store's claim on a cell."""

    chunks_done: int

    def append(self, rows: list[SampleRow], time: TimeRow) -> None: ...

    def finish(self) -> None: ...


class TaskError(VtpruneError):
    """A task that breaks its contract (two samples with one id, a score outside 0 to 1), or whose data are not those
    that the study was planned with."""


class Worker:
    """Answers cells, one after another, and keeps the latest model and the latest task's samples.

    A model that cannot be loaded is not tried again by this worker: its other cells fail at once, with the same error.
    Lack of memory is the exception, as it may pass.

    threads: of torch, on the CPU, while a cell runs; part of what makes rows equal to the bit.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._model = lru_cache(maxsize=1)(_load)
        self._ref: ModelRef | None = None
        self._unloadable: dict[ModelRef, VtpruneError] = {}
        self._loaded_task: LoadedTask | None = None

    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        """Answer what the claim has not got yet, appending a chunk per batch, and finish the claim.

        progress: called with the number of samples of each chunk. Raises what goes wrong: LoadError, RecipeError,
        BindingError, PromptError, TaskError, whatever a component or a task raises.
        """
        with _torch_threads(self._threads):
            self._run(cell, claim, progress)

    def _run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        task, samples = self._task(cell)
        model, processor = self._loaded(cell.model)
        recipe = None if cell.variant.recipe is None else Recipe.parse(dict(cell.variant.recipe), cell.variant.label)
        share_images = locate(model, {} if recipe is None else recipe.replace).adapter.unique is not None
        run = (
            observe(model, share_images=share_images)
            if recipe is None
            else prune(model, recipe, share_images=share_images)
        )
        shrunk = cell.variant.downsample
        located = any(sample.regions for sample in samples)
        smaller = nullcontext() if shrunk is None else downsampled(model, processor, shrunk)
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
        if (known := self._unloadable.get(ref)) is not None:
            raise known.with_traceback(None)
        try:
            return self._model(ref)
        except VtpruneError as error:
            if not isinstance(error.__cause__, MemoryError | torch.OutOfMemoryError):
                self._unloadable[ref] = copy(error)  # without the traceback, whose frames may hold half a model
            raise

    def _task(self, cell: Cell) -> tuple[Task, list[Sample]]:
        key = (dict(cell.task), cell.limit)
        if self._loaded_task is None or self._loaded_task.key != key:
            task = build("task", cell.task)
            assert isinstance(task, Task)
            samples = list(islice(task.samples(), cell.limit))
            if twice := [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]:
                raise TaskError(f"task {cell.task['name']!r} gives the id {twice[0]!r} to several samples")
            self._loaded_task = LoadedTask(key, task, samples)
        self._loaded_task.check(cell)
        return self._loaded_task.task, self._loaded_task.samples


@dataclass(frozen=True)
class LoadedTask:
    """A task and its samples. key: the cell's task and limit."""

    key: tuple[Any, int | None]
    task: Task
    samples: list[Sample]

    @cached_property
    def fingerprint(self) -> str:
        """Of the task when its samples had been read."""
        return self.task.fingerprint()

    def check(self, cell: Cell) -> None:
        """Raise TaskError if the data are not those that the cell was planned with, where its identity says which."""
        planned = cell.identity.get("task")
        if isinstance(planned, Mapping) and planned.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise TaskError(
                f"the data of task {cell.task['name']!r} are not those that the study was planned with: their "
                f"fingerprint is {self.fingerprint[:12]!r}, expected {planned['fingerprint'][:12]!r}; run the study "
                f"again to plan it anew"
            )


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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

    @cached_property
    def shown(self) -> list[Sample]:
        """The samples as the processor is given them."""
        return list(self.samples) if self.shrink is None else [self.shrink(sample) for sample in self.samples]

    @property
    def has_visuals(self) -> bool:
        return any(sample.visuals for sample in self.samples)

    def inputs(self, processor: Any) -> Any:
        """What ``generate`` takes, on the CPU."""
        return encode(processor, self.shown, self.images_kwargs)

    @property
    def images_kwargs(self) -> dict[str, Any]:
        return {} if self.shrink is None else self.shrink.images_kwargs

    def crops(self, number: int, processor: Any) -> list[Box]:
        """What the model sees of each visual of a sample."""
        return [crop_of(visual, processor, self.images_kwargs) for visual in self.shown[number].visuals]

    def annotate(self, processor: Any, run: Run) -> None:
        """Tell the run which vision tokens show an answer, if the cell's samples say so."""

        def say(number: int, layout: SampleLayout) -> torch.Tensor:
            grids = [segment.grid or (1, 1, len(segment)) for segment in layout.segments]
            return annotation(self.shown[number], grids, self.crops(number, processor))

        run.annotate(say if self.located else None)


def _answer(batch: Batch, model: Any, processor: Any, run: Run) -> tuple[list[SampleRow], TimeRow]:
    cell, task, samples = batch.cell, batch.task, batch.samples
    first = batch.chunk * cell.batch_size
    started = time.perf_counter()
    inputs = batch.inputs(processor).to(model.device, dtype=model.dtype)
    prepared = time.perf_counter()
    batch.annotate(processor, run)
    # Without a visual in the batch there is nothing to prune, which a run refuses.
    with _seeded(), run if batch.has_visuals else nullcontext(), torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=task.max_new_tokens, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :].cpu()
    answered = time.perf_counter()
    texts = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    stop = {model.generation_config.pad_token_id, *_as_list(model.generation_config.eos_token_id)}
    lengths = [sum(token not in stop for token in row) for row in new.tolist()]
    report = run.report if batch.has_visuals else None
    words = inputs["attention_mask"].sum(1).tolist()
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
            **(
                costs.of_text(words[number], run.recipe, run.cost)
                if report is None
                else costs.reported(report, number, run.cost)
            ),
            **_places(batch, number, processor, report if first + number < cell.keep_indices else None),
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
        "stages": [0.0] * len(run.recipe.stages) if report is None else list(report.stage_seconds),
        "device": device,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


@contextmanager
def _seeded() -> Iterator[None]:
    """Inside, torch's generators start from 0; afterwards they are as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


class Places(TypedDict):
    """The columns of `SampleRow` that overlays read."""

    kept: list[int] | None
    kept_share: list[float] | None
    grids: list[list[int]] | None
    crops: list[list[float]] | None


def _places(batch: Batch, number: int, processor: Any, report: Report | None) -> Places:
    if report is None:
        return {"kept": None, "kept_share": None, "grids": None, "crops": None}
    layout, stages = report.layouts[number], len(report.recipe.stages)
    grids = [list(segment.grid) for segment in layout.segments if segment.grid is not None]
    located = bool(grids) and len(grids) == len(layout.segments)
    acted = bool(stages and layout.vision)
    return {
        "kept": report.kept(stages - 1, number) if acted else None,
        "kept_share": kept_shares(report, stages - 1, number) if acted else None,
        "grids": grids if located else None,
        "crops": [list(crop) for crop in batch.crops(number, processor)] if located else None,
    }


def _as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else value
