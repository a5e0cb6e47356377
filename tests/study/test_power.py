"""What a plan's samples can show at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.study import fake
from vtprune.cli import app
from vtprune.core.task import Sample
from vtprune.study import power
from vtprune.study.plan import make_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.save_default(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.register_fake(monkeypatch)


def said(folder: Path, **changes: Any) -> list[str]:
    data = {"models": [str(folder)], "recipes": ["fastv"], "axes": {"budget": [0.5]}, **changes}
    return list(power.too_few(make_plan(fake.study(**data))))


def test_a_plan_with_too_few_samples_says_so_and_one_with_enough_does_not(folder: Path) -> None:
    (sentence,) = said(folder, tasks=[{"name": "fake", "length": 7}])  # random, grid, downsample and fastv
    assert "no difference from the unpruned model can be found" in sentence
    assert "7 pictures" in sentence
    assert "4 comparisons need at least 8" in sentence
    assert said(folder, tasks=[{"name": "fake", "length": 8}]) == []
    assert len(said(folder, tasks=[{"name": "fake", "length": 100}], limit=7)) == 1
    assert said(folder, tasks=[{"name": "fake", "length": 7}], baselines={"without": ["full"]}) == []


def test_the_command_line_says_so_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    data = {"name": "mine", "models": [str(folder)], "tasks": [{"name": "fake", "length": 5}], "recipes": ["fastv"]}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({**data, "axes": {"budget": [0.5]}}))
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["study", "plan", str(path), "--out", str(tmp_path / "out"), *options])
        assert result.exit_code == 0, result.output
        assert "no difference from the unpruned model can be found" in " ".join(result.output.split())


def test_questions_about_one_picture_count_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fake.Fake.samples

    def shared(self: fake.Fake) -> Iterator[Sample]:
        for number, sample in enumerate(plain(self)):
            yield Sample(sample.id, sample.content, sample.references, group=f"picture {number // 10}")

    monkeypatch.setattr(fake.Fake, "samples", shared)
    (sentence,) = said(folder, tasks=[{"name": "fake", "length": 30}])
    assert "3 pictures" in sentence
    assert said(folder, tasks=[{"name": "fake", "length": 80}]) == []


def test_seeds_are_no_comparisons_and_few_samples_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    plain = fake.Fake.samples

    def counted(self: fake.Fake) -> Iterator[Sample]:
        for sample in plain(self):
            read.append(sample.id)
            yield sample

    plan = make_plan(fake.study(models=[str(folder)], recipes=["fastv"], seeds=[0, 1, 2], tasks=[{"name": "fake"}]))
    monkeypatch.setattr(fake.Fake, "samples", counted)
    (sentence,) = power.too_few(plan)
    assert "8 comparisons need at least 9" in sentence
    many = make_plan(fake.study(models=[str(folder)], recipes=["fastv"], tasks=[{"name": "fake", "length": 5000}]))
    read.clear()
    assert list(power.too_few(many)) == []
    assert len(read) == 9
    monkeypatch.setattr(power, "LOOKED_AT", 5)
    assert list(power.too_few(many)) == []  # how many groups there are is not known, so nothing is said
