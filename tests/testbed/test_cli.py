"""``vtprune testbed``: pictures of scenes and the list of models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vtprune.cli import app
from vtprune.testbed import models
from vtprune.testbed.show import draw
from vtprune.testbed.tasks import Testbed


@pytest.mark.parametrize("variant", ["image", "pair", "video"])
def test_show_writes_a_picture(tmp_path: Path, variant: str) -> None:
    out = tmp_path / "scenes.png"
    done = CliRunner().invoke(app, ["testbed", "show", "--out", str(out), "--variant", variant, "--count", "2"])
    assert done.exit_code == 0, done.output
    with Image.open(out) as sheet:
        assert min(sheet.size) > 400
    assert "2 scenes drawn" in done.output


def test_the_picture_shows_the_scene_and_outlines_the_region() -> None:
    task = Testbed(types=("where",), scenes=1)
    sample = next(iter(task.samples()))
    sheet = np.asarray(draw(task, 1))
    scene = np.asarray(sample.visuals[0].resize((240, 240), Image.Resampling.NEAREST))
    drawn = sheet[46 : 46 + 240, 24 : 24 + 240]
    rows, columns = np.nonzero((drawn != scene).any(-1))
    left, top, right, bottom = (round(edge * 240) for edge in sample.regions[0].box)
    assert len(rows) > 100
    assert top - 2 <= rows.min() <= rows.max() <= bottom + 1
    assert left - 2 <= columns.min() <= columns.max() <= right + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "pair", "--level", "hard"], "has no effect"),
        (["--out", "scenes.xyz"], "ends in .png"),
        (["--out", "/nonexistent/x.png"], "--out /nonexistent/x.png: the directory /nonexistent does not exist"),
    ],
)
def test_faults_are_wrong_usage(options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["testbed", "show", *options])
    assert done.exit_code == 2
    assert words in done.output


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"accuracy": 0.9666, "low": 0.9, "high": 1.0, "n": 3}
    run = {"all": entry, "groups": {"core": entry, "hop": entry}, "types": {}}
    kinds = ("image/easy", "image/medium", "image/hard", "pair", "video")
    metrics = {"parameters": 2446976, "bytes": 4911728, "runs": dict.fromkeys(kinds, run)}
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tiny" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    done = CliRunner().invoke(app, ["testbed", "list"])
    assert done.exit_code == 0, done.output
    assert "testbed/tiny" in done.output
    assert "2,446,976" in done.output
    assert done.output.count("96.7") == 7
    assert json.loads(CliRunner().invoke(app, ["testbed", "list", "--json"]).stdout) == {"tiny": metrics}
