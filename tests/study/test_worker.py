"""A worker's rows do not depend on what else is in a batch, and the worker leaves the process as it found it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.study.fake import Fake, register_fake
from tests.study.test_end_to_end import Memory, answer, cell
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.task import Region, Sample, Video
from vtprune.loading import load_model
from vtprune.study.prompts import encode, render
from vtprune.study.worker import Batch, TaskError, Worker

HALF = {"stages": [{"site": "projector.output", "scorer": "oracle", "selector": "top_k", "budget": 0.5}]}


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Two questions without a picture, then two with one."""
    register_fake(monkeypatch)
    made = Fake(length=4)
    samples = [
        replace(sample, content=sample.content[1:], regions=()) if number < 2 else sample
        for number, sample in enumerate(made.samples())
    ]
    monkeypatch.setattr(Fake, "samples", lambda self: iter(samples))
    return made


@pytest.mark.parametrize("recipe", [None, HALF])
def test_rows_do_not_depend_on_the_batch_even_without_a_picture_in_it(task: Fake, recipe: Any) -> None:
    whole, pairs, single = (answer(cell("testbed/nano", recipe, task, size)) for size in (4, 2, 1))
    assert whole == pairs == single
    assert [row["vision_tokens"] for row in whole] == [0, 0, 144, 144]
    assert whole[0]["prompt_tokens"] > 0
    assert whole[0]["flops"] == whole[0]["flops_full"] > 0
    assert whole[0]["kept"] is whole[0]["grids"] is None
    pruned = recipe is not None
    assert whole[0]["tokens_by_layer"] == ([0] * 8 if pruned else None)
    assert (whole[2]["flops"] < whole[2]["flops_full"]) == pruned


def test_grids_are_those_of_the_visuals(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    wide, tall = Image.new("RGB", (72, 32), "red"), Image.new("RGB", (48, 48), "blue")
    first, second = Sample("a", (wide, "and", tall, "what ?"), ("b",)), Sample("c", (wide, "what ?"), ("b",))
    third = replace(second, id="d")
    monkeypatch.setattr(Fake, "samples", lambda self: iter([first, second, third]))
    rows = answer(cell("testbed/mrope", None, Fake(), 2))
    processor = load_model("testbed/mrope", "auto", torch.device("cpu"), None)[1]
    made = encode(processor, [first])["image_grid_thw"]
    merge = processor.image_processor.merge_size
    grids = [[t, h // merge, w // merge] for t, h, w in made.tolist()]
    assert grids[0][1] < grids[0][2]
    assert [row["grids"] for row in rows] == [grids, grids[:1], None]


def test_data_that_changed_since_planning_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    job = cell("testbed/nano", None, Fake(length=1, content="new"))
    same = replace(job, identity={"task": {"fingerprint": "new"}})
    assert answer(same)
    changed, claim = replace(job, identity={"task": {"fingerprint": "old"}}), Memory()
    with pytest.raises(TaskError, match=r"task 'fake' are not those .* planned with: .* 'new', expected 'old'"):
        Worker().run(changed, claim, lambda count: None)
    assert claim.rows == []


def test_generators_and_threads_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    Worker(before + 1).run(cell("testbed/nano", None, Fake(length=1)), Memory(), lambda count: None)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.rand(3), expected)


def test_the_rate_of_a_clip_reaches_the_model() -> None:
    processor = load_model("testbed/mrope", "auto", torch.device("cpu"), None)[1]
    frames = tuple(Image.new("RGB", (144, 144), (index, 0, 0)) for index in range(4))

    def encoded(*rates: float) -> Any:
        return encode(processor, [Sample(str(r), (Video(frames, r), "what ?"), ("a",)) for r in rates])

    text = render(processor, Sample("s", (Video(frames), "what ?"), ("a",)))
    plain = processor(text=[text], videos=[list(frames)], padding=True, return_tensors="pt")
    assert plain.keys() == encoded(2.0).keys()
    assert all(torch.equal(plain[key], value) for key, value in encoded(2.0).items())
    assert encoded(2.0)["second_per_grid_ts"].tolist() == [1.0]
    assert encoded(1.0, 4.0)["second_per_grid_ts"].tolist() == [2.0, 0.5]


def test_transformers_processors_are_told_the_rate_and_others_are_not() -> None:
    frames = (Image.new("RGB", (8, 8)),) * 3
    sample = Sample("s", (Video(frames, 5.0), "what ?"), ("a",))

    class Plain:
        image_token, video_token = "<image>", "<video>"

        def __call__(self, text: Any, padding: bool, return_tensors: str, **given: Any) -> dict[str, Any]:
            return given

    class Transformers(Plain):
        video_processor = object()

    assert encode(Plain(), [sample]) == {"videos": [list(frames)]}
    assert encode(Transformers(), [sample]) == {
        "videos": [list(frames)],
        "video_metadata": [{"total_num_frames": 3, "fps": 5.0, "frames_indices": [0, 1, 2]}],
        "do_sample_frames": False,
    }


def test_annotations_are_of_what_the_processor_cuts_out(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    cuts = {"do_center_crop": True, "do_resize": True, "size": {"shortest_edge": 8}}
    processor = SimpleNamespace(image_processor=SimpleNamespace(**cuts, crop_size={"height": 8, "width": 8}))
    image = Image.new("RGB", (16, 8))
    sample = Sample("s", (image, "what ?"), ("a",), regions=(Region(0, (0.25, 0.0, 0.5, 1.0)),))
    said: list[Any] = []
    batch = Batch(cell("testbed/nano", None, Fake()), Fake(), [sample], 0, None, located=True)
    batch.annotate(processor, SimpleNamespace(annotate=said.append))  # type: ignore[arg-type]
    layout = SampleLayout(torch.arange(4), (Segment(0, 0, 4, (1, 1, 4)),))
    assert said[0](0, layout).tolist() == [1, 1, 0, 0]
    replace(batch, located=False).annotate(processor, SimpleNamespace(annotate=said.append))  # type: ignore[arg-type]
    assert said[1] is None
