"""What is shown and asked where the user names no picture or no question."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from vtprune.cli.console import note
from vtprune.cli.prompts import count_placeholders
from vtprune.loading import TESTBED

if TYPE_CHECKING:
    from PIL import Image

    from vtprune.core.task import Sample

TYPE = "color2digit"
"""Of the testbed's question: nearly always answered correctly without pruning."""


def shown_and_asked(
    model: str | None, processor: Any, prompt: str | None, images: list[Image.Image]
) -> tuple[list[Image.Image], str | None]:
    """Pictures and prompt, what was left out filled in; what that was is said on stderr.

    One picture for each placeholder of the prompt: photographs, or for a model of the testbed, which knows nothing
    else, scenes. Such a model is also asked one of the testbed's questions; None leaves the question to the prompt's
    template.
    """
    count = max(1, count_placeholders(processor, prompt))
    if model is None or not model.startswith(TESTBED):
        return images or _photographs(count), prompt
    samples = _scenes(count)
    if prompt is None:
        prompt = samples[0].text
        answer = "" if images else f", to which the answer is {samples[0].references[0]!r}"
        note(f"no --prompt given; asking {prompt!r}{answer}")
    if not images:
        images = [sample.visuals[0] for sample in samples]  # type: ignore[misc]  # this variant has no videos
        note(f"no --image given; using the testbed's scene{'s' * (count > 1)} {', '.join(s.group for s in samples)}")
    return images, prompt


def _photographs(count: int) -> list[Image.Image]:
    from vtprune.testbed import photo, photos

    names = [photos()[index % len(photos())] for index in range(count)]
    note(f"no --image given; using the photograph{'s' if count > 1 else ''} {', '.join(names)}")
    return [photo(name) for name in names]


def _scenes(count: int) -> list[Sample]:
    """The first question about each of the first scenes."""
    from vtprune.testbed.tasks import Testbed

    scenes = groupby(Testbed(types=(TYPE,)).samples(), lambda sample: sample.group)
    return [next(samples) for _, samples in islice(scenes, count)]
