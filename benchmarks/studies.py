"""Questions per second of a study's worker, beside plain generation by the same model on the same questions.

    python -m benchmarks.run studies

The plain side is what a script without vtprune would run: processor, `generate`, text. The worker does that with a
recipe applied, reads the report, scores and makes rows. A ratio below 1 means that the worker takes less time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from benchmarks.common import finish, goal, paired, timed
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build, dump
from vtprune.core.task import Sample, Task
from vtprune.loading import load_model
from vtprune.study.cell import Cell, ModelRef, Variant
from vtprune.study.prompts import encode
from vtprune.study.rows import SampleRow, TimeRow
from vtprune.study.worker import Worker

MODELS = ("testbed/nano", "testbed/mrope")
BATCH = 64
BUDGET = 0.25


class InMemory:
    """A claim that keeps its rows to itself."""

    chunks_done = 0

    def __init__(self) -> None:
        self.rows: list[SampleRow] = []

    def append(self, rows: list[SampleRow], time: TimeRow) -> None:
        self.rows += rows

    def finish(self) -> None:
        pass


def plain(model: Any, processor: Any, samples: Sequence[Sample], new_tokens: int) -> list[str]:
    """Answers without vtprune."""
    texts: list[str] = []
    for start in range(0, len(samples), BATCH):
        inputs = encode(processor, samples[start : start + BATCH])
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        texts += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def compare(name: str, recipes: Sequence[str | None], questions: int, repeats: int, worker: Worker) -> dict[str, Any]:
    """Every recipe against plain generation on one model: medians of pairs, and questions per second."""
    task = build("task", "testbed")
    assert isinstance(task, Task)
    samples = list(islice(task.samples(), questions))
    cpu = torch.device("cpu")
    model, processor = load_model(name, "auto", cpu, None)
    found = {}
    for label in recipes:
        recipe = None if label is None else Recipe.load(label)
        variant = Variant(label or "unpruned", "recipe", None if recipe is None else recipe.to_dict())
        cell = Cell(ModelRef(name), dump(task), variant, questions, BATCH, {"recipe": label})

        def work(cell: Cell = cell) -> None:
            worker.run(cell, InMemory(), lambda count: None)

        result = paired(
            lambda: timed(lambda: plain(model, processor, samples, task.max_new_tokens), cpu),
            lambda work=work: timed(work, cpu),  # type: ignore[misc]
            repeats,
        )
        result["questions_per_second"] = {
            side: round(1e3 * questions / result["wall"][f"{key}_ms"], 1)
            for side, key in (("plain", "base"), ("worker", "other"))
        }
        rates = result["questions_per_second"]
        print(f"{name:14} {variant.label:14} {rates['plain']:7.1f} {rates['worker']:7.1f} questions/s", flush=True)
        found[variant.label] = result
    return found


def main(options: argparse.Namespace) -> None:
    """Measure, print, and write the result file."""
    if options.device != "cpu":
        raise SystemExit("the studies benchmark runs on the CPU only")
    torch.set_num_threads(options.threads)  # of the plain side; a worker sets its own
    worker = Worker(options.threads)
    questions, repeats = (8, 1) if options.toy else (256, options.repeats or 5)
    recipes = [None, "fastv"] if options.toy else [None, *registry().names("recipe")]
    models = MODELS[:1] if options.toy else MODELS
    records = {name: compare(name, recipes, questions, repeats, worker) for name in models}
    seconds = 1000 / records[MODELS[0]]["unpruned"]["questions_per_second"]["worker"]
    goals = [
        goal("worker without a recipe / plain generation (nano)", records[MODELS[0]]["unpruned"]["wall"]["ratio"], 1.1),
        goal("1,000 questions of nano, unpruned, in seconds", seconds, 10),
    ]
    finish("studies", options, {"questions": questions, "models": records}, goals)
