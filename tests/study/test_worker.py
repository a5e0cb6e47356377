"""A worker's rows do not depend on what else is in a batch, and the worker leaves the process as it found it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from tests.study.fake import Fake, register_fake
from tests.study.test_end_to_end import Memory, answer, cell
from vtprune.core.errors import LoadError
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.task import Region, Sample, Video
from vtprune.loading import load_model
from vtprune.study import worker
from vtprune.study.cell import ModelRef
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
    assert whole[0]["kept"] is whole[0]["grids"] is whole[0]["crops"] is None
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
    assert [row["crops"] for row in rows] == [[[0, 0, 1, 1]] * 2, [[0, 0, 1, 1]], None]


def test_shares_are_of_the_layers_and_heads_that_keep_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    stages = [{"site": "projector.output", "scorer": "random", "budget": 0.5}]
    evict = {"site": "llm.layers[2:4].kv", "scorer": {"name": "attention", "head_reduction": "none"}}
    stages.append({**evict, "selector": "top_k", "reducer": "evict_kv", "budget": 0.25})
    rows = answer(replace(cell("testbed/nano", {"stages": stages}, Fake(length=2), 2), keep_indices=1))
    shares, by_head = rows[0]["kept_share"], rows[0]["kv_by_head"]
    assert shares is not None
    assert by_head is not None
    assert len(shares) == 144
    assert rows[1]["kept_share"] is None
    assert [place for place, share in enumerate(shares) if share] == rows[0]["kept"]
    assert set(shares) <= {0, 0.25, 0.5, 0.75, 1}  # of two layers with two heads each
    assert len(set(shares)) > 2
    assert sum(shares) == sum(map(sum, by_head[2:4])) / 4
    dropped = answer(replace(cell("testbed/nano", HALF, Fake(length=1), 1), keep_indices=1))
    assert dropped[0]["kept"] is not None
    assert dropped[0]["kept_share"] is None


def test_times_say_which_dtype_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    for asked, ran in (("auto", "float32"), ("bfloat16", "bfloat16")):
        claim = Memory()
        of = cell("testbed/nano", None, Fake(length=1), 1)
        Worker().run(replace(of, model=replace(of.model, dtype=asked)), claim, lambda count: None)
        assert [time["dtype"] for time in claim.times] == [ran]


@pytest.mark.parametrize(("shrunk", "side"), [(None, 48), (0.25, 24)])
def test_crops_are_what_the_processor_lets_through(
    monkeypatch: pytest.MonkeyPatch, shrunk: float | None, side: int
) -> None:
    """Reference: the processor, on a picture that grows brighter to the right."""
    register_fake(monkeypatch)
    ramp = Image.linear_gradient("L").rotate(90).resize((160, 80)).convert("RGB")
    sample = Sample("a", (ramp, "what ?"), ("b",))
    monkeypatch.setattr(Fake, "samples", lambda self: iter([sample, replace(sample, id="c"), replace(sample, id="d")]))
    model, processor = load_model("testbed/nano", "auto", torch.device("cpu"), None)
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, do_normalize=False
    )
    seen: list[torch.Tensor] = []
    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))
    tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]),
        with_kwargs=True,
    )
    monkeypatch.setattr(worker, "_load", lambda ref: (model, processor))
    rows = answer(cell("testbed/nano", None, Fake(), 3, downsample=shrunk))
    assert rows[2]["crops"] is None
    assert rows[0]["crops"] == rows[1]["crops"]
    ((left, top, right, bottom),) = rows[0]["crops"] or []
    assert (top, bottom) == (0, 1)
    shown = seen[0][0].mean(0)
    assert shown.shape == (side, side)
    first, last = shown[:, 0].mean().item(), shown[:, -1].mean().item()
    assert sorted((first, last)) == pytest.approx(sorted((left, right)), abs=0.03)


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


@pytest.mark.parametrize(("cause", "loads"), [(OSError("404"), 1), (torch.OutOfMemoryError("CUDA"), 2)])
def test_a_model_that_cannot_be_loaded_is_tried_once_unless_memory_was_short(
    monkeypatch: pytest.MonkeyPatch, cause: Exception, loads: int
) -> None:
    register_fake(monkeypatch)
    tried: list[str] = []

    def load(ref: ModelRef) -> None:
        tried.append(ref.id)
        raise LoadError(f"model {ref.id!r} cannot be loaded") from cause

    monkeypatch.setattr(worker, "_load", load)
    mine, said = Worker(), []
    for model in ("a/b", "c/d", "a/b"):
        with pytest.raises(LoadError) as caught:
            mine.run(cell(model, None, Fake(), 1), Memory(), lambda samples: None)
        said.append(str(caught.value))
    assert said == [f"model {name!r} cannot be loaded" for name in ("a/b", "c/d", "a/b")]
    assert tried.count("a/b") == loads
    assert Worker()._unloadable == {}, "the next run tries again"
