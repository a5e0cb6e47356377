"""The LLaVA families: which patches make up a token, separators, corners, and images that have no map to patches."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.adapters.llava_by_hand import CASES, SEED, by_sample, kinds, prompt, tiny
from tests.exactness.helpers import assert_agree, distance, generate, reference, spied, taken
from vtprune.core.adapter import Modality, VisionCall
from vtprune.core.errors import BindingError, UnsupportedModeError
from vtprune.core.lookup import find_adapter
from vtprune.core.report import Report
from vtprune.core.signals import Need
from vtprune.testing.models import VIDEO, Inputs, Tiny
from vtprune.testing.models.llava_onevision import tiny_llava_onevision

CLOSE = 1e-6
RANDOM = {"scorer": "random", "budget": 0.4}
PROJECTOR = {"site": "projector.output", **RANDOM}
NEEDS_PATCHES: dict[str, dict[str, Any]] = {
    "vision.output": {"site": "vision.output", **RANDOM},
    "merge": {"site": "vision.output", "reducer": "merge", **RANDOM},
    "attention": {**PROJECTOR, "scorer": {"name": "cls_attention", "query": "received"}},
    "vision.layers": {"site": "vision.layers[1]", **RANDOM},
}


@pytest.fixture(autouse=True)
def _one_thread_no_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def filled(values: Tensor, report: Report, sample: int) -> Tensor:
    """``[head, token]`` with NaN at separators: these get the mean over the tokens of their image."""
    values = values.clone()
    segments = report.layouts[sample].segments
    for image in {segment.image for segment in segments}:
        at = torch.cat([torch.arange(s.start, s.stop) for s in segments if s.image == image])
        own = values[:, at]
        values[:, at] = torch.where(own.isnan(), own.nanmean(1, keepdim=True), own)
    return values


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_features_are_the_means_of_each_tokens_patches(name: str, batch: str) -> None:
    inputs = prompt(name, batch)
    seen, report = spied(tiny(name).model, inputs, "vision.output", Need("features"))
    expected = by_sample({token: kind.features() for token, kind in kinds(name, inputs).items()}, inputs, 0)
    for sample, layout in enumerate(report.layouts):
        if layout.vision:
            assert distance(seen[sample][1][Need("features")], expected[sample]) < 1e-5


@pytest.mark.parametrize("attn", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "batch"), CASES)
def test_vision_attention_is_that_of_each_tokens_patches(name: str, batch: str, attn: str) -> None:
    inputs, has_cls = prompt(name, batch), name != "llava_onevision"
    queries = ("cls", "received") if has_cls else ("received",)
    needs = [Need("vision_attention", query, layer) for query in queries for layer in (-2, 0)]
    seen, report = spied(tiny(name, attn).model, inputs, "projector.output", *needs)
    made = kinds(name, inputs)
    for need in needs:
        assert need.layer is not None
        values = {t: kind.attention(need.layer, need.query or "", has_cls=has_cls) for t, kind in made.items()}
        for sample, row in enumerate(by_sample(values, inputs, 1)):
            if report.layouts[sample].vision:
                expected = filled(row, report, sample)
                assert expected.std() > 1e-3
                assert distance(seen[sample][1][need], expected) < CLOSE


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_separators_are_the_last_column_of_their_grid(name: str, batch: str) -> None:
    inputs = prompt(name, batch)
    made = {token: torch.tensor([not rows for rows in kind.patches]) for token, kind in kinds(name, inputs).items()}
    with vtprune.prune(tiny(name).model, "random", budget=1.0) as run:
        tiny(name).model(**inputs)
    found = 0
    for sample, is_separator in enumerate(by_sample(made, inputs, 0)):
        layout = run.report.layouts[sample]
        for segment in layout.segments:
            own = is_separator[segment.start : segment.stop]
            if segment.grid is None:
                assert not own.any()
                continue
            expected = torch.zeros(segment.grid, dtype=torch.bool)
            if segment.row_ends:
                expected[..., -1] = True
            assert torch.equal(own.view(segment.grid), expected)
        found += int(is_separator.sum())
    assert bool(found) == (
        name in ("llava_next", "llava_onevision") or (name == "llava_next_video" and batch != "videos")
    )


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_a_token_is_projected_as_the_model_does(name: str, batch: str) -> None:
    """From what reaches the projector, which of LLaVA-NeXT-Video's videos are squares that were pooled before."""
    model = tiny(name, "eager").model
    project = find_adapter([type(model).__name__]).project
    assert project is not None
    for token, kind in kinds(name, prompt(name, batch)).items():
        tokens = [number for number, rows in enumerate(kind.patches) if rows]
        given = torch.stack([kind.projected[kind.patches[number]] for number in tokens])
        if name == "llava_next_video" and token == VIDEO:
            given = given.mean(1, keepdim=True)
        assert distance(project(model, given), kind.embeddings[tokens]) < 1e-5


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_windows_are_the_sequences_of_the_tower(name: str, batch: str) -> None:
    model: Any = tiny(name).model
    inputs = prompt(name, batch)
    windows = find_adapter([type(model).__name__]).windows
    assert windows is not None
    kinds_of_inputs: dict[Modality, Inputs] = {
        "image": {key: value for key, value in inputs.items() if key.startswith(("pixel_values", "image", "batch"))},
        "video": {key: value for key, value in inputs.items() if key == "pixel_values_videos"},
    }
    kinds_of_inputs["image"].pop("pixel_values_videos", None)
    for modality, arguments in kinds_of_inputs.items():
        if arguments:
            tower = getattr(model.model, f"{modality}_tower", None) or model.model.vision_tower
            encode = getattr(model.model, f"get_{modality}_features")
            first = next(iter(inspect.signature(encode).parameters))
            named = {first if key == "pixel_values_videos" else key: value for key, value in arguments.items()}
            (shape,) = taken(
                tower.encoder.layers[0],
                lambda args, kwargs: (args[0] if args else kwargs["hidden_states"]).shape,
                partial(encode, **named),
            )
            found = windows(model, VisionCall(modality, named, None, ()), ())
            assert found == [[shape[1]] * shape[0]] * len(tower.encoder.layers)


def corner(tiny_model: Tiny, inputs: Inputs, segment: int) -> tuple[list[int], Report]:
    """The tokens that are kept when the last two rows and patch columns of a segment's last frame are wanted."""
    model = tiny_model.model

    def wanted(_: int, layout: Any) -> Tensor:
        own, at = layout.segments[segment], layout.coordinates()
        t, h, w = own.grid
        right = w - int(own.row_ends)
        inside = (at[:, 1] == t - 1) & (at[:, 2] >= h - 2) & (at[:, 3] >= right - 2) & (at[:, 3] < right)
        return ((at[:, 0] == segment) & inside).float()

    with vtprune.prune(model, "random", scorer="oracle", budget={"keep_tokens": 4}) as run:
        run.annotate(wanted)
        model(**inputs)
    return run.report.kept(), run.report


CORNERS: dict[str, tuple[str, dict[str, Any], int, list[list[int]]]] = {
    "llava": ("llava", {"images": (1,)}, 0, [[10], [11], [14], [15]]),
    "vipllava": ("vipllava", {"images": (2,)}, 1, [[26], [27], [30], [31]]),
    "whole_tile": ("llava_next", {"images": (1,), "sizes": [(56, 56)]}, 0, [[10], [11], [14], [15]]),
    "tiles": ("llava_next", {"images": (1,), "sizes": [(56, 56)]}, 1, [[74], [75], [78], [79]]),
    "unpadded": ("llava_next", {"images": (1,), "sizes": [(28, 112)]}, 1, [[38], [39], [42], [43]]),
    "second": ("llava_next_video", {"images": (2,), "sizes": [(56, 56), (56, 28)]}, 3, [[122], [123], [126], [127]]),
    "uncut": ("llava_onevision", {"images": (2,)}, 2, [[26], [27], [30], [31]]),
    "next_video": (
        "llava_next_video",
        {"images": (0,), "videos": (1,)},
        0,
        [[row + shift for shift in (0, 1, 4, 5)] for row in (16, 18, 24, 26)],
    ),
    "onevision_video": (
        "llava_onevision",
        {"images": (0,), "videos": (1,)},
        0,
        [[row + shift for shift in (0, 1, 4, 5)] for row in (16, 18, 24, 26)],
    ),
    "video_llava": ("video_llava", {"images": (2,)}, 1, [[26], [27], [30], [31]]),
}


@pytest.mark.parametrize("which", CORNERS)
def test_a_corner_is_a_corner(which: str) -> None:
    """Patches are counted over all tiles of the batch, 16 a tile; the tile in the lower right corner comes last."""
    name, options, segment, patches = CORNERS[which]
    inputs = tiny(name).make_inputs(**options, seed=SEED)
    kept, _ = corner(tiny(name), inputs, segment)
    (made,) = kinds(name, inputs).values()
    assert sorted(made.patches[token] for token in kept) == sorted(patches)


UNMAPPED: dict[str, tuple[int, int, dict[str, Any], str]] = {
    "resized_image": (1, 4, {"images": (1,), "sizes": [(56, 56)]}, "resized them"),
    "odd_frames": (4, 3, {"images": (0,), "videos": (1,)}, "3x3 patches are resized to 2x2"),
}


@pytest.mark.parametrize("which", UNMAPPED)
def test_tokens_that_mix_patches_in_unequal_parts(which: str) -> None:
    """Language-model sites are exact there; what needs the tower's patches is refused, and leaves nothing behind."""
    most, edge, options, reason = UNMAPPED[which]
    made = tiny_llava_onevision(edge=edge, most_tiles=most)
    model, inputs = made.model, made.make_inputs(**options)
    plain_logits = model(**inputs).logits
    for stage in NEEDS_PATCHES.values():
        with pytest.raises(UnsupportedModeError, match=reason), vtprune.prune(model, {"stages": [stage]}):
            model(**inputs)
    assert torch.equal(model(**inputs).logits, plain_logits)
    with vtprune.prune(model, {"stages": [PROJECTOR]}) as run:
        generated = generate(model, inputs)
    with reference(model, run.report, inputs["input_ids"].shape[1]):
        assert_agree(generated, generate(model, inputs))
    grids = [(segment.grid, segment.row_ends) for segment in run.report.layouts[0].segments]
    assert (
        grids
        == {
            "resized_image": [((1, 4, 4), False), ((1, 4, 5), True)],
            "odd_frames": [((2, 2, 2), False), ((1, 1, 1), True)],
        }[which]
    )


def test_the_towers_of_video_llava_keep_their_patches() -> None:
    with pytest.raises(BindingError, match=r"vision.layers\[1\]"):
        vtprune.prune(tiny("video_llava").model, {"stages": [NEEDS_PATCHES["vision.layers"]]})
