"""A tiny task, registered for the time of a test, and a tiny model on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from vtprune.core.plugins import registry
from vtprune.core.registry import Registration
from vtprune.core.task import Region, Sample, Task
from vtprune.study.file import StudyFile
from vtprune.testbed import load_default


class Fake(Task):
    """Grey squares. regions: whether the samples say where the answer is; first_region: from which one on. tells:
    whether the task says so, and how many samples there are."""

    length: int = 8
    regions: bool = True
    first_region: int = 0
    tells: bool = False
    path: Path | None = None
    content: str = ""
    max_new_tokens: int = 3

    def samples(self) -> Iterator[Sample]:
        for number in range(self.length):
            regions = (Region(0, (0.0, 0.0, 0.5, 0.5)),) if self.regions and number >= self.first_region else ()
            image = Image.new("RGB", (64, 64), (number, 100, 100))
            yield Sample(f"s{number}", (image, "What is this?"), ("grey",), regions=regions)

    def has_regions(self, limit: int | None = None) -> bool | None:
        return self.regions and self.first_region < min(limit or self.length, self.length) if self.tells else None

    def sample_count(self) -> int | None:
        return self.length if self.tells else None

    def fingerprint(self) -> str:
        return self.content


def register_fake(patch: pytest.MonkeyPatch) -> None:
    """``fake`` is a registered task until the patch is undone."""
    everything = registry()
    patch.setattr(everything, "_entries", dict(everything._entries))
    patch.setattr(everything, "_loaded", dict(everything._loaded))
    everything.add(Registration("task", "fake", "tests.study.fake:Fake", "grey squares", None, "vtprune", "0.0"))


def save_default(folder: Path) -> Path:
    """The default model with random weights, as a local folder."""
    model, processor = load_default()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def study(**changes: object) -> StudyFile:
    """A study of the fake task on a model that is never loaded."""
    data = {"name": "mine", "models": ["some/model"], "tasks": ["fake"], "axes": {"budget": [0.5, 0.25]}, **changes}
    return StudyFile.parse(data)
