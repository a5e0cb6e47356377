"""The processors of transformers, built without a download, in the sizes of the tiny models.

Each family's own image processor (its PIL backend) and processor class, and a small tokenizer that holds the family's
special tokens at the ids of the tiny models. A processor that owns a video processor cannot be made without
torchvision; a subclass that lets the video processor be absent still does everything it does to images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.image_processing_utils import select_best_resolution

from vtprune.testbed import photo
from vtprune.testing.models import Inputs, vision_mask
from vtprune.testing.models.families import VARIANTS
from vtprune.testing.models.prompts import MARKS
from vtprune.testing.models.tiny import IMAGE, PAD, VIDEO, VOCABULARY, pad_rows
from vtprune.testing.models.tiny import build as tiny_build

UNKNOWN, BOS = 1, 2
WORDS = ["what", "animal", "is", "this", "or", "?", "which", "one", "that"]
How = Literal["whole", "images", "pixels", "none"]
"""What works without torchvision: the processor as it is; the processor without its video processor; the image
processor alone; nothing."""


class Piece(NamedTuple):
    """One rectangle of tokens: its grid, and which part of the picture it shows (top, left, height, width in shares).

    newlines: whether its last column stands for no part of the picture.
    """

    grid: tuple[int, int, int] | None
    tokens: int
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    newlines: bool = False


@dataclass(frozen=True)
class Real:
    """How to build the processor of one tiny model.

    processor, images: class names in transformers; options, image_options: their arguments.
    specials: special tokens and their ids; named: those that the processor looks up as attributes of its tokenizer.
    mark: what stands for an image in a prompt. pieces: the rectangles that the image processor cuts a picture into.
    fails, fails_before: the error without torchvision, with transformers 5.23 and before; None where there is none.
    how, how_before: what works then. `fails_before` counts only where `how_before` is given.
    remains: the error of 5.23 without a video processor, where it is another one.
    call: arguments of the call. video: the class of the video processor, if not named like the processor.
    config: changes the tiny model's configuration where the image processor does not go to its sizes.
    nested: whether images are given sample by sample. wide: whether pictures of other shapes than squares are tried.
    together: the rectangles of a picture that shares its sample with others, where that makes a difference.
    chat: whether the checkpoints of the family have a chat template.
    """

    processor: str
    images: str
    image_options: Mapping[str, Any]
    pieces: Callable[[Any, Image.Image], list[Piece]]
    options: Mapping[str, Any] = field(default_factory=dict)
    specials: Mapping[str, int] = field(default_factory=lambda: {"<image>": IMAGE, "<video>": VIDEO})
    named: Mapping[str, str] = field(default_factory=dict)
    mark: str = "<image>"
    fails: str | None = None
    how: How = "whole"
    fails_before: str | None = None
    how_before: How | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    video: str = ""
    config: Callable[[Any], None] | None = None
    nested: bool = False
    wide: bool = True
    remains: str | None = None
    chat: bool = True
    together: Callable[[Any, Image.Image], list[Piece]] | None = None

    def cut(self, images: Any, sample: Sequence[Image.Image]) -> list[Piece]:
        """The rectangles of a sample's pictures; images: the image processor."""
        pieces = self.pieces if len(sample) == 1 or self.together is None else self.together
        return [piece for image in sample for piece in pieces(images, image)]

    @property
    def reason(self) -> str | None:
        """Why the processor class cannot be made with the installed transformers; None if it can."""
        return self.fails if is_new() or self.how_before is None else self.fails_before

    @property
    def remaining(self) -> str | None:
        """Why it still cannot be made when it has no video processor."""
        return self.remains or self.fails if is_new() or self.how_before is None else self.fails_before

    @property
    def status(self) -> How:
        """How far one gets with the installed transformers."""
        return self.how if is_new() or self.how_before is None else self.how_before


def is_new() -> bool:
    """Whether the installed transformers is 5.23 or later: the tables hold two states."""
    return tuple(map(int, version("transformers").split(".")[:2])) >= (5, 23)


@cache
def tokenizer(specials: tuple[tuple[str, int], ...], named: tuple[tuple[str, str], ...]) -> PreTrainedTokenizerFast:
    """One word, one token; ids that nobody uses hold words that nobody writes, so that added tokens come after them."""
    taken = {"<pad>": PAD, "<unk>": UNKNOWN, "<bos>": BOS, **dict(specials)}
    words = iter([*WORDS, *(f"word{number}" for number in range(VOCABULARY))])
    free = [index for index in range(VOCABULARY) if index not in taken.values()]
    vocabulary = taken | {next(words): index for index in free}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        padding_side="left",
        extra_special_tokens=dict(named),
    )
    made.add_tokens(list(dict(specials)), special_tokens=True)
    return made


def image_processor(real: Real) -> Any:
    """The family's image processor; raises whatever transformers raises."""
    return getattr(transformers, real.images)(**real.image_options)


def build(real: Real, without_video: bool = False) -> Any:
    """The family's processor; raises whatever transformers raises."""
    own = getattr(transformers, real.processor)
    parts: dict[str, Any] = {
        "image_processor": image_processor(real),
        "tokenizer": tokenizer(tuple(real.specials.items()), tuple(real.named.items())),
    }
    if "feature_extractor" in own.get_attributes():
        parts["feature_extractor"] = transformers.WhisperFeatureExtractor()
    if "video_processor" in own.get_attributes():
        if without_video:
            own, parts["video_processor"] = images_only(own), None
        else:
            parts["video_processor"] = getattr(
                transformers, real.video or real.processor.replace("Processor", "VideoProcessor")
            )()
    return own(**parts, **real.options)


def images_only(own: type) -> type:
    """The processor class with one difference: it may be made without its video processor."""

    class ImagesOnly(own):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor" and argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    return ImagesOnly


def picture(shape: str = "square", name: str = "coffee") -> Image.Image:
    """A photograph, or the upper half or the left half of it."""
    whole = photo(name)
    width, height = whole.size
    edges = {"square": (width, height), "wide": (width, height // 2), "tall": (width // 2, height)}
    return whole.crop((0, 0, *edges[shape]))


def template(real: Real) -> str:
    """A chat template that writes a user's texts and images one after the other."""
    return (
        "{% for message in messages %}{% for item in message['content'] %}{% if item['type'] == 'image' %}"
        + real.mark
        + "{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )


def prompts(real: Real, counts: Sequence[int]) -> list[str]:
    """One prompt per sample, with so many images; those of PaliGemma stand before the text."""
    if real.processor == "PaliGemmaProcessor":
        return [real.mark * count + "which one is that ?" for count in counts]
    return [f"what animal is {' or '.join(['this ' + real.mark] * count)} ?" for count in counts]


def square(side: int) -> Callable[[Any, Image.Image], list[Piece]]:
    return lambda images, image: [Piece((1, side, side), side * side)]


def counted(tokens: int) -> Callable[[Any, Image.Image], list[Piece]]:
    """Crops without a grid, of which the image processor tells the number."""
    return lambda images, image: [Piece(None, tokens)] * int(images(image, return_tensors="pt")["num_crops"])


def unordered(count: int) -> Callable[[Any, Image.Image], list[Piece]]:
    return lambda images, image: [Piece(None, count)]


def _crops(side: int, rows: int, columns: int) -> list[Piece]:
    """Crops row by row."""
    height, width = 1 / rows, 1 / columns
    return [
        Piece((1, side, side), side * side, (row * height, column * width, height, width))
        for row in range(rows)
        for column in range(columns)
    ]


def thw(merge: int) -> Callable[[Any, Image.Image], list[Piece]]:
    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        t, h, w = images(image, return_tensors="pt")["image_grid_thw"][0].tolist()
        return [Piece((t, h // merge, w // merge), t * h * w // merge**2)]

    return pieces


def pixels(span: int) -> Callable[[Any, Image.Image], list[Piece]]:
    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        height, width = images(image, return_tensors="pt")["image_sizes"][0]
        rows, columns = int(height) // span, int(width) // span
        return [Piece((1, rows, columns), rows * columns)]

    return pieces


def pooled(pool: int) -> Callable[[Any, Image.Image], list[Piece]]:
    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        columns, rows = ((images(image, return_tensors="pt")["image_position_ids"][0].amax(0) + 1) // pool).tolist()
        return [Piece((1, rows, columns), rows * columns)]

    return pieces


def rows_and_columns(side: int) -> Callable[[Any, Image.Image], list[Piece]]:
    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        cut = images(image, return_row_col_info=True, return_tensors="pt")
        rows, columns = cut["rows"][0][0], cut["cols"][0][0]
        whole = _crops(side, 1, 1)
        return _crops(side, rows, columns) + whole if rows * columns else whole

    return pieces


def covered(side: int) -> Callable[[Any, Image.Image], list[Piece]]:
    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        rows, columns = (int(edge) for edge in images(image, return_tensors="pt")["grids"][0])
        whole = _crops(side, 1, 1)
        return whole + _crops(side, rows, columns) if rows * columns > 1 else whole

    return pieces


def tiled(side: int) -> Callable[[Any, Image.Image], list[Piece]]:
    """Crops of which the image processor tells the number alone: a square picture was cut into as many rows as columns,
    a wide one into one row, a tall one into one column. The whole picture comes last."""

    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        count = int(images(image, return_tensors="pt")["num_patches"][0])
        width, height = image.size
        cut = count - 1 if count > 1 else 1
        rows = round((cut * height / width) ** 0.5)
        assert rows * (cut // rows) == cut
        return (_crops(side, rows, cut // rows) if count > 1 else []) + _crops(side, 1, 1)

    return pieces


def anyres(tile: int, side: int) -> Callable[[Any, Image.Image], list[Piece]]:
    """The whole picture, and its tiles put together: as many rows and columns of patches as are not padding."""

    def pieces(images: Any, image: Image.Image) -> list[Piece]:
        cut = images(image, return_tensors="pt")
        height, width = (int(edge) for edge in cut["image_sizes"][0])
        best = select_best_resolution((height, width), images.image_grid_pinpoints)
        across = [edge // tile * side for edge in best]
        assert len(cut["pixel_values"][0]) == 1 + best[0] * best[1] // tile**2
        filled = min(best[0] / height, best[1] / width)
        rows, columns = (
            edge - int(edge - share * filled * side / tile) // 2 * 2
            for edge, share in zip(across, (height, width), strict=True)
        )
        whole = Piece((1, side, side), side * side)
        return [whole, Piece((1, rows, columns + 1), rows * (columns + 1), newlines=True)]

    return pieces


def uncut(side: int) -> Callable[[Any, Image.Image], list[Piece]]:
    """The whole picture, and one newline."""
    return lambda images, image: [Piece((1, side, side), side * side), Piece((1, 1, 1), 1, newlines=True)]


def by_hand(name: str, real: Real, pictures: Sequence[Sequence[Image.Image]]) -> Inputs:
    """Inputs whose pixels come from the image processor; the prompt is written here, with a mark after every row."""
    images = image_processor(real)
    rows = []
    for sample in pictures:
        row = [UNKNOWN + 3]
        for image in sample:
            for piece in real.cut(images, [image]):
                _, height, width = piece.grid or (1, 1, piece.tokens)
                row += [*[IMAGE] * width, MARKS[0]] * height
            row += [UNKNOWN + 4, UNKNOWN + 5]
        rows.append(row)
    given = pictures if real.nested else [image for sample in pictures for image in sample]
    inputs: Inputs = {**pad_rows(rows, "left"), **images(given, return_tensors="pt")}
    inputs["mm_token_type_ids"] = vision_mask(inputs).long()
    known = VARIANTS[name].make().make_inputs()
    return {key: value for key, value in inputs.items() if key in known}


def model_of(name: str, real: Real) -> PreTrainedModel:
    """The tiny model; another one where its sizes are none that the image processor knows."""
    tiny = VARIANTS[name].make().model
    if real.config is None:
        return tiny
    config = copy.deepcopy(tiny.config)
    real.config(config)
    return tiny_build(type(tiny), config, "sdpa")


WORKS = {"whole": "yes", "images": "images only", "pixels": "image processor only", "none": "no"}


def table(reals: Mapping[str, Real]) -> str:
    """The table of the docs."""
    lines = [
        "| tiny model | processor | image processor | 5.23 | 5.17 | why not all of it |",
        "|---|---|---|---|---|---|",
    ]
    for name, real in reals.items():
        before = real.how_before or real.how
        reasons = dict.fromkeys(
            filter(None, (real.fails, real.remains, real.fails_before if real.how_before else None))
        )
        why = "; ".join(reasons).replace("requires the Torchvision library", "needs torchvision")
        lines.append(
            f"| `{name}` | `{real.processor}` | `{real.images}` | {WORKS[real.how]} | {WORKS[before]} | {why} |"
        )
    return "\n".join(lines)
