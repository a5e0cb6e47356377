"""Real studies on the shipped models: what the documentation says of determinism, costs and results, seen to hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.study.fake import Fake, register_fake
from vtprune.core.errors import ComponentError
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build, dump
from vtprune.core.task import Sample, Task
from vtprune.loading import load_model
from vtprune.study import run_study
from vtprune.study.cell import Cell, ModelRef, Variant
from vtprune.study.prompts import encode
from vtprune.study.rows import SampleRow, TimeRow
from vtprune.study.worker import TaskError, Worker

HAS_RAY = importlib.util.find_spec("ray") is not None
STUDY: dict[str, Any] = {
    "name": "tiny",
    "models": ["testbed/nano"],
    "tasks": [{"name": "testbed", "scenes": 3}],
    "recipes": [
        {"recipe": "fastv", "set": {"site": "llm.layers[3]"}, "controls": ["random", "inverted", "oracle", "repacked"]},
        {"recipe": "plphp", "controls": ["oracle"]},
        "greedyprune",
    ],
    "axes": {"budget": [0.25]},
    "batch_size": 9,
    "limit": 24,
}


class Memory:
    """A claim that keeps rows in a list, and may start in the middle."""

    def __init__(self, chunks_done: int = 0) -> None:
        self.chunks_done, self.rows, self.finished = chunks_done, list[SampleRow](), False
        self.times: list[TimeRow] = []

    def append(self, rows: list[SampleRow], time: TimeRow) -> None:
        assert len(rows) == time["samples"]
        assert time["generate"] > 0
        self.rows += rows
        self.times.append(time)

    def finish(self) -> None:
        self.finished = True


def cell(model: str, recipe: Mapping[str, Any] | Recipe | None, task: Task, size: int = 8, **options: Any) -> Cell:
    data = None if recipe is None else Recipe.load(recipe).to_dict()
    return Cell(ModelRef(model), dump(task), Variant("x", "recipe", data, **options), None, size, {"test": 1}, 2)


def answer(job: Cell, chunks_done: int = 0) -> list[SampleRow]:
    claim = Memory(chunks_done)
    Worker().run(job, claim, lambda count: None)
    assert claim.finished
    return claim.rows


@pytest.fixture
def fake_task(monkeypatch: pytest.MonkeyPatch) -> Fake:
    register_fake(monkeypatch)
    return Fake(length=2)


def test_an_oracle_answers_samples_without_regions_whatever_their_batch(
    fake_task: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fake_task.samples()
    monkeypatch.setattr(Fake, "samples", lambda self: iter([first, replace(second, regions=())]))
    stage = {"site": "projector.output", "scorer": "oracle", "selector": "top_k", "budget": 0.5}
    rows = [answer(cell("testbed/nano", {"stages": [stage]}, fake_task, size)) for size in (1, 2)]
    assert [row["kept"] for row in rows[0]] == [row["kept"] for row in rows[1]]
    monkeypatch.setattr(Fake, "samples", lambda self: iter([replace(second, regions=())]))
    with pytest.raises(ComponentError, match="reads annotations"):
        answer(cell("testbed/nano", {"stages": [stage]}, fake_task))


def test_a_task_that_breaks_its_contract_is_told_before_anything_is_stored(
    fake_task: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cell("testbed/nano", None, fake_task)
    with monkeypatch.context() as patch:
        first, _ = fake_task.samples()
        patch.setattr(Fake, "samples", lambda self: iter([first, first]))
        with pytest.raises(TaskError, match="'s0' to several samples"):
            answer(job)
    monkeypatch.setattr(Fake, "score", lambda self, sample, answer: 50.0)
    with pytest.raises(TaskError, match=r"Fake\.score gave 50\.0 for sample 's0'"):
        answer(job)


def task(**parameters: Any) -> Task:
    made = build("task", {"name": "testbed", **parameters})
    assert isinstance(made, Task)
    return made


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "reference"
    finished = run_study(STUDY, folder, quiet=True)
    assert not finished.failed
    return folder


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("samples.parquet", "cells.parquet")}


@pytest.mark.parametrize(
    "executor",
    [
        "inline",
        "processes",
        pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_RAY, reason="no Ray")]),
    ],
)
def test_the_same_study_gives_the_same_bytes(reference: Path, tmp_path: Path, executor: Any) -> None:
    run_study(STUDY, tmp_path / "again", executor=executor, workers=2, quiet=True)
    assert results(tmp_path / "again") == results(reference)


def test_rows_hold_what_the_recipes_promise(reference: Path) -> None:
    cells = pd.read_parquet(reference / "cells.parquet")
    samples = pd.read_parquet(reference / "samples.parquet")
    names = dict(zip(cells["id"], cells["label"], strict=True)) if "id" in cells else cells["label"].to_dict()
    samples["label"] = samples["cell"].map(names)
    assert (samples["vision_tokens"][samples["label"] != "downsample"] == 144).all()
    mean = samples.groupby("label")[["input_tokens", "mean_tokens", "mean_kv_tokens"]].mean()
    assert tuple(mean.loc["full"]) == (144, 144, 144)
    assert tuple(mean.loc["random"]) == (36, 36, 36)
    assert tuple(mean.loc["downsample"]) == (36, 36, 36)
    for label in ("fastv", "fastv (random)", "fastv (inverted)", "fastv (oracle)", "fastv (repacked)"):
        assert tuple(mean.loc[label]) == (144, (3 * 144 + 5 * 36) / 8, (3 * 144 + 5 * 36) / 8)
    assert mean.loc["plphp", "mean_tokens"] == 144
    assert mean.loc["plphp", "mean_kv_tokens"] < 144
    spent = samples.groupby("label")[["flops", "flops_full", "kv_bytes", "kv_bytes_full"]].sum()
    assert spent.loc["full", "flops"] == spent.loc["full", "flops_full"]
    assert spent.loc["random", "flops"] < spent.loc["fastv", "flops"] < spent.loc["full", "flops"]
    assert spent.loc["random", "kv_bytes"] < 0.5 * spent.loc["full", "kv_bytes"]
    assert set(samples["score"]) <= {0.0, 1.0}


@pytest.mark.parametrize("model", ["testbed/nano", "testbed/mrope"])
def test_unpruned_answers_are_those_of_the_model_alone(model: str) -> None:
    job = cell(model, None, task(scenes=2), size=16)
    net, processor = load_model(model, "auto", torch.device("cpu"), None)
    samples: list[Sample] = list(task(scenes=2).samples())
    inputs = encode(processor, samples)
    with torch.inference_mode():
        output = net.generate(**inputs, max_new_tokens=10, do_sample=False)
    texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    rows = answer(job)
    assert [row["answer"] for row in rows] == [text.strip() for text in texts]
    assert [row["score"] for row in rows] == [
        float(text.strip() == sample.references[0]) for text, sample in zip(texts, samples, strict=True)
    ]
    assert [row["new_tokens"] for row in rows] == [len(text.split()) for text in texts]


def test_a_cell_that_goes_on_has_the_rows_of_one_that_never_stopped() -> None:
    job = cell("testbed/nano", "divprune", task(scenes=3))
    whole = answer(job)
    assert [row["index"] for row in whole] == list(range(24))
    assert answer(job, chunks_done=2) == whole[16:]
    assert [row["kept"] is not None for row in whole] == [True, True] + [False] * 22


@pytest.mark.parametrize(("model", "variant"), [
    ("testbed/nano", {"variant": "pair"}),
    ("testbed/nano", {"variant": "video", "frames": "images"}),
    ("testbed/mrope", {"variant": "pair"}),
    ("testbed/mrope", {"variant": "video"}),
])  # fmt: skip
def test_several_images_and_videos_are_pruned(model: str, variant: dict[str, str]) -> None:
    recipe = {"stages": [{"site": "projector.output", "scorer": "oracle", "budget": 0.25, "scope": "image"}]}
    rows = answer(cell(model, recipe, task(scenes=2, questions=2, **variant), size=4))
    images = 2 if variant["variant"] == "pair" else 4
    assert {row["vision_tokens"] for row in rows} == {144 * images}
    assert {row["input_tokens"] for row in rows} == {36 * images}


def test_the_oracle_keeps_what_shows_the_answer() -> None:
    one = task(scenes=4, types=("color2digit",))
    recipe = {"stages": [{"site": "projector.output", "scorer": "oracle", "budget": {"keep_tokens": 9}}]}
    rows = answer(cell("testbed/nano", recipe, one))
    samples = list(one.samples())
    for row, sample in zip(rows[:2], samples[:2], strict=True):
        left, top, right, bottom = (12 * side for side in sample.regions[0].box)
        inside = {
            y * 12 + x
            for y in range(12)
            for x in range(12)
            if left < x + 1 and x < right and top < y + 1 and y < bottom
        }
        assert row["kept"] is not None
        assert inside <= set(row["kept"])
