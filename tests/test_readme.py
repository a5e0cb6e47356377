"""What README.md says in numbers is what comes out: the picture at its top, and how many families there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vtprune.cli import app
from vtprune.core.plugins import GROUP, registry

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "vtprune/testbed/images/coffee.jpg"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def kept_by_layer(command: str) -> dict[int, int]:
    """What a ``vtprune run`` reports of its first stage: tokens kept, by layer."""
    words = [*shlex.split(command)[1:], "--max-new-tokens", "1"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    (line,) = re.findall(r"^stage 0 kept, by layer: (.+)$", done.stdout, re.MULTILINE)
    found = {}
    for layers, count in re.findall(r"([\d-]+): (\d+)", line):
        first, _, last = layers.partition("-")
        found |= dict.fromkeys(range(int(first), int(last or first) + 1), int(count))
    return found


class TestPicture:
    def test_its_command_keeps_what_the_caption_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (command,) = [line for line in README.splitlines() if line.endswith(" --overlay plphp.png")]
        (numbers,) = re.findall(r"miniature model: ([\d, and]+) of 576 in layers ([\d, and\n]+)\.", README)
        counts, layers = ([int(number) for number in re.findall(r"\d+", part)] for part in numbers)
        assert f"--image {IMAGE} " in command
        monkeypatch.chdir(ROOT)
        target = tmp_path / "plphp.png"
        assert kept_by_layer(command.replace("plphp.png", str(target))) == dict(zip(layers, counts, strict=True))
        assert target.is_file()

    def test_at_the_recipes_own_thresholds_every_layer_keeps_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        (count,) = re.findall(r"at the recipe's own, each of its layers keeps (\d+)", README)
        assert set(kept_by_layer(f"vtprune run --recipe plphp --image {IMAGE}").values()) == {int(count)}


@pytest.mark.parametrize(
    ("page", "sentence"),
    [("README.md", r"\[(\d+) model families\]"), ("CHANGELOG.md", r"Adapters for (\d+) families")],
)
def test_families_are_those_that_are_served(page: str, sentence: str) -> None:
    entries = [entry for entry in registry().entries("adapter") if entry.origin == GROUP]
    served = [entry for entry in entries if registry().load("adapter", entry.name).unsupported is None]
    assert len(served) < len(entries), "one is refused and does not count"
    (stated,) = re.findall(sentence, (ROOT / page).read_text(encoding="utf-8"))
    assert int(stated) == len(served)
