"""A task: squares of one colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from PIL import Image

from vtprune.plugin import Region, Sample, Task

WARM = ("red", "orange")


class Squares(Task):
    """Which colour is the square?

    count: how many squares. colours: taken in turn. side: of a picture, in pixels.
    """

    revision: ClassVar[int] = 3

    count: int = 6
    colours: tuple[str, ...] = ("red", "blue")
    side: int = 64
    max_new_tokens: int = 2

    def samples(self) -> Iterator[Sample]:
        for number in range(self.count):
            colour = self.colours[number % len(self.colours)]
            image = Image.new("RGB", (self.side, self.side), colour)
            kind = "warm" if colour in WARM else "cold"
            yield Sample(f"square-{number}", (image, "Which colour?"), (colour,), kind, (Region(0, (0, 0, 1, 1)),))

    def has_regions(self, limit: int | None = None) -> bool:
        return True

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        return {"temperature": ("warm", "cold")}
