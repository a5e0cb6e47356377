"""Photographs through the real processor of every family, or as much of it as works without torchvision.

Video processors need torchvision: the inputs of videos are those that the tiny models make up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image, ImageChops
from transformers import PreTrainedModel
from transformers.utils import is_torchvision_available

import vtprune
from tests.adapters.processor_table import REAL
from tests.adapters.processors import (
    Piece,
    Real,
    build,
    by_hand,
    image_processor,
    model_of,
    picture,
    prompts,
    table,
    template,
)
from tests.exactness.helpers import TOLERANCE, distance, generate, reference, spied
from vtprune.core.lookup import locate
from vtprune.core.recipe import Recipe
from vtprune.core.signals import Need
from vtprune.testing.models import Inputs, vision_mask
from vtprune.testing.models.families import VARIANTS

COUNTS = (1, 2)
RECIPES: dict[str, Recipe] = {
    "fastv": Recipe.load("fastv", budget=0.3),
    "random": Recipe.load({"stages": [{"site": "projector.output", "scorer": "random", "budget": 0.3}]}),
}
RECURRENT = ("qwen3_5", "lfm2_vl")
"""Their states have no masked reference."""
WITHOUT_GRID = ("aria", "idefics2")
REAL_INPUTS = [name for name, real in REAL.items() if real.status != "none"]
ONE_CUT = ("llava", "vipllava", "video_llava", "paligemma", "gemma3", "idefics2", "aria")
"""Those that cut pictures of all shapes alike. Aria's image processor tells the number of crops of the picture that has
most, and its processor takes it for all: pictures that are cut differently do not go into one batch."""
WHOLE = [name for name in REAL_INPUTS if REAL[name].status != "pixels"]
NAMED = [pytest.param(name, id=f"{name}-{REAL[name].status.replace('none', 'made_inputs')}") for name in REAL]
DOCS = Path(__file__).parents[2] / "docs" / "processors.md"


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Prompt(NamedTuple):
    """Inputs of a batch, and for each sample the rectangles that the image processor cut each picture into."""

    inputs: Inputs
    pieces: list[list[Piece]]


def prompt_of(name: str, pictures: list[list[Image.Image]]) -> Prompt:
    real = REAL[name]
    images = image_processor(real)
    pieces = [real.cut(images, sample) for sample in pictures]
    if real.status == "pixels":
        return Prompt(by_hand(name, real, pictures), pieces)
    given = pictures if real.nested else [image for sample in pictures for image in sample]
    processor = build(real, without_video=real.status == "images")
    texts = prompts(real, [len(sample) for sample in pictures])
    inputs = dict(processor(images=given, text=texts, return_tensors="pt", padding=True, **real.call))
    inputs.pop("labels", None)  # PaliGemma's processor always makes them; `generate` does not take them
    return Prompt(inputs, pieces)


SHAPES = {True: ("wide", "tall"), False: ("square", "square")}


def pictures_of(real: Real) -> list[list[Image.Image]]:
    """One picture, and two of other sizes."""
    first, second = SHAPES[real.wide]
    return [[picture(first)], [picture("square", "chelsea"), picture(second)]]


@cache
def batch(name: str) -> Prompt:
    """A padded batch of the pictures; made up where no processor works."""
    real = REAL[name]
    if real.status == "none":
        return Prompt(VARIANTS[name].make().make_inputs(COUNTS, seed=7), [])
    return prompt_of(name, pictures_of(real))


@cache
def plain(name: str) -> Any:
    return generate(model(name), batch(name).inputs, 4)


@cache
def model(name: str) -> PreTrainedModel:
    return model_of(name, REAL[name])


def why(error: BaseException | None) -> str:
    """The messages of an error and of what caused it."""
    return "" if error is None else f"{error}\n{why(error.__cause__)}"


def test_every_family_has_its_line() -> None:
    assert set(REAL) <= set(VARIANTS)
    assert {VARIANTS[name].family for name in REAL} == {variant.family for variant in VARIANTS.values()}


def failure(what: str, make: Callable[[], object]) -> str:
    """Why something that the table says cannot be made cannot be made."""
    try:
        make()
    except (ImportError, AttributeError) as error:
        return why(error)
    pytest.fail(f"{what} works without torchvision now: correct its line in processor_table.py")


@pytest.mark.skipif(is_torchvision_available(), reason="the table is about environments without torchvision")
@pytest.mark.parametrize("name", REAL)
def test_what_works_without_torchvision(name: str) -> None:
    real = REAL[name]
    if real.reason is None or real.remaining is None:
        build(real)
        return
    assert all("torchvision" in reason.lower() or "num2words" in reason for reason in (real.reason, real.remaining))
    assert real.reason in failure(real.processor, lambda: build(real))
    if real.status == "images":
        build(real, without_video=True)
        return
    assert real.remaining in failure(f"{real.processor} without videos", lambda: build(real, without_video=True))
    if real.status == "pixels":
        image_processor(real)
        return
    assert "torchvision" in failure(real.images, lambda: image_processor(real)).lower()


@pytest.mark.parametrize("name", REAL_INPUTS)
def test_layout_is_what_the_processor_cut(name: str) -> None:
    inputs, pieces = batch(name)
    with vtprune.observe(model(name)) as run:
        model(name)(**inputs)
        layouts = run.report.layouts
    assert vision_mask(inputs).sum(1).tolist() == [sum(piece.tokens for piece in sample) for sample in pieces]
    for layout, sample in zip(layouts, pieces, strict=True):
        assert [segment.grid for segment in layout.segments] == [piece.grid for piece in sample]
        assert [len(segment) for segment in layout.segments] == [piece.tokens for piece in sample]
        assert [segment.row_ends for segment in layout.segments] == [piece.newlines for piece in sample]
    real, images = REAL[name], image_processor(REAL[name])
    assert (real.pieces(images, picture("wide")) == real.pieces(images, picture("square"))) == (name in ONE_CUT)


@pytest.mark.parametrize("name", [name for name in WHOLE if REAL[name].chat])
def test_chat_template_gives_the_same_inputs(name: str) -> None:
    real, inputs = REAL[name], batch(name).inputs
    processor = build(real, without_video=real.status == "images")
    conversations = []
    for text, images in zip(prompts(real, COUNTS), pictures_of(real), strict=True):
        content: list[dict[str, Any]] = [{"type": "text", "text": text.split(real.mark)[0]}]
        for image, after in zip(images, text.split(real.mark)[1:], strict=True):
            content += [{"type": "image", "image": image}, {"type": "text", "text": after}]
        conversations.append([{"role": "user", "content": content}])
    found = processor.apply_chat_template(
        conversations,
        chat_template=template(real),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **real.call},
    )
    assert set(inputs) <= set(found)
    assert all(torch.equal(found[key], value) for key, value in inputs.items())


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("site", ["projector.output", "llm.layers[1]"])
def test_keeping_everything_changes_no_bit(name: str, site: str) -> None:
    inputs, expected = batch(name).inputs, plain(name)
    with vtprune.prune(model(name), {"stages": [{"site": site, "scorer": "random", "budget": 1.0}]}) as run:
        found = generate(model(name), inputs, 4)
        assert run.report.events
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("recipe", RECIPES)
def test_counts_are_those_asked_and_removal_is_masking(name: str, recipe: str) -> None:
    inputs, unpruned = batch(name).inputs, plain(name)
    with vtprune.prune(model(name), RECIPES[recipe]) as run:
        found = generate(model(name), inputs, 4)
        report = run.report
    assert {event.sample for event in report.events} == set(range(len(COUNTS)))
    for event in report.events:
        vision = report.layouts[event.sample].vision
        assert event.realised == event.requested
        assert abs(event.realised[0] - 0.3 * vision) <= 0.5
        assert report.vision_tokens[event.sample][-1] == event.realised[0]
    assert distance(found.logits, unpruned.logits) > 0.01
    if name not in RECURRENT:
        with reference(model(name), report, inputs["input_ids"].shape[1]):
            expected = generate(model(name), inputs, 4)
        assert torch.equal(found.tokens, expected.tokens)
        assert distance(found.logits, expected.logits) < TOLERANCE


@contextmanager
def no_attention(name: str) -> Iterator[None]:
    """The tower's patches do not see one another."""

    def nothing(module: Any, args: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    handles = [module.register_forward_hook(nothing) for module in locate(model(name)).vision_attention]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_corner(pieces: list[Piece]) -> torch.Tensor:
    """bool ``[vision]``: tokens that show the lower right quarter of the picture."""
    found = []
    for piece in pieces:
        assert piece.grid is not None
        _, rows, columns = piece.grid
        top, left, height, width = piece.box
        shown = columns - piece.newlines
        down = top + (torch.arange(rows) + 0.5) / rows * height > 0.5
        across = left + (torch.arange(shown) + 0.5) / shown * width > 0.5
        mask = down[:, None] & across
        found.append(torch.nn.functional.pad(mask, (0, int(piece.newlines))).flatten())
    return torch.cat(found)


@pytest.mark.parametrize("name", [name for name in REAL_INPUTS if name not in WITHOUT_GRID])
def test_changing_a_corner_of_the_picture_changes_the_tokens_of_that_corner(name: str) -> None:
    """The tokens whose features change are those that the grid puts there, and these are what a recipe keeps. The
    tower's attention, which would carry the change to other tokens, is left out where the features are read."""
    real, images = REAL[name], image_processor(REAL[name])
    shape = "wide" if real.wide and real.pieces(images, picture("wide")) != real.pieces(images, picture()) else "square"
    image = picture(shape)
    width, height = image.size
    corner = (width // 2, height // 2, width, height)
    changed = image.copy()
    changed.paste(ImageChops.invert(image.crop(corner)), corner[:2])
    features = []
    for each in (image, changed):
        with no_attention(name):
            seen, _ = spied(model(name), prompt_of(name, [[each]]).inputs, "projector.output", Need("features"))
        features.append(seen[0][1][Need("features")])
    change = (features[0] - features[1]).norm(dim=-1)
    expected = in_corner(prompt_of(name, [[image]]).pieces[0])
    recipe = {
        "stages": [{"site": "projector.output", "scorer": "oracle", "budget": {"keep_tokens": int(expected.sum())}}]
    }
    with vtprune.prune(model(name), recipe) as run:
        run.annotate(lambda sample, layout: change)
        model(name)(**prompt_of(name, [[image]]).inputs)
        kept = torch.tensor(run.report.kept(0, 0))
    assert torch.equal(kept, expected.nonzero().flatten())


def test_docs_hold_the_table() -> None:
    assert table(REAL) in DOCS.read_text()
