"""Questions of one's own: a folder with ``questions.jsonl``, one question a line, and the pictures it names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vtprune.core.errors import VtpruneError, bulleted, did_you_mean
from vtprune.core.task import Part, Region, Sample, Task, Video
from vtprune.tasks.scoring import LETTERS, SCORINGS, Scoring

FILE: Final = "questions.jsonl"
EXAMPLES: Final = Path(__file__).parent / "examples"
_SHOWN: Final = 20
_ASK_LETTER: Final = "Answer with the option's letter from the given choices directly."

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class JsonlError(VtpruneError):
    """A folder that cannot be used; ``problems`` lists every fault found, each with its line."""

    def __init__(self, problems: Sequence[str], folder: Path) -> None:
        self.problems = tuple(problems)
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        super().__init__(bulleted(f"the questions in {folder} cannot be used", [*problems[:_SHOWN], *more]))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _RegionRow(_Strict):
    visual: int = Field(0, ge=0)
    box: Annotated[list[Share], Field(min_length=4, max_length=4)]
    frame: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _box_is_not_empty(self) -> _RegionRow:
        left, top, right, bottom = self.box
        if not (left < right and top < bottom):
            raise ValueError(f"box is {self.box}: expected left < right and top < bottom, as shares of the picture")
        return self


class _Row(_Strict):
    """One line of the file."""

    question: Text
    id: Text | None = None
    image: Text | None = None
    images: list[Text] = []
    video: list[Text] = []
    fps: float = Field(2.0, gt=0)
    answer: Text | None = None
    answers: list[Text] = []
    choices: list[Text] = Field([], max_length=len(LETTERS))
    type: Text = "all"
    group: str = ""
    regions: list[_RegionRow] = []

    @model_validator(mode="after")
    def _consistent(self) -> _Row:
        problems = []
        if sum(map(bool, (self.image, self.images, self.video))) != 1:
            problems.append("needs exactly one of 'image', 'images' and 'video'")
        if bool(self.answer) == bool(self.answers):
            problems.append("needs 'answer' or 'answers', and not both")
        visuals = 1 if self.video else len(self.pictures)
        for region in self.regions:
            if region.visual >= visuals:
                problems.append(f"a region lies in visual {region.visual}, but there are {visuals}, counted from 0")
            if region.frame is not None and region.frame >= len(self.video):
                problems.append(f"a region lies in frame {region.frame} of {len(self.video)} frames of a video")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def pictures(self) -> list[str]:
        return [self.image] if self.image else self.images or self.video

    @property
    def correct(self) -> list[str]:
        return [self.answer] if self.answer else self.answers


class Jsonl(Task):
    """A folder of questions.

    path: a folder that holds ``questions.jsonl`` and the pictures; a relative path counts from the current directory.
    scoring: ``exact``, ``contains`` (the answer contains a reference), ``choice`` (multiple choice; each line has
        ``choices``) or ``vqa`` (share of people who agree; each line has at least three ``answers``).
    """

    path: Path
    scoring: Scoring = "exact"

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Two folders that come with vtprune; the first fits every scoring but ``choice``."""
        return (
            cls(path=EXAMPLES / "open"),
            cls(path=EXAMPLES / "open", scoring="contains", max_new_tokens=8),
            cls(path=EXAMPLES / "open", scoring="vqa"),
            cls(path=EXAMPLES / "choice", scoring="choice"),
        )

    def samples(self) -> Iterator[Sample]:
        """The lines in order; pictures are opened as they come.

        Raises:
            JsonlError: before the first sample, with every malformed line; later, for a picture that cannot be read.
        """
        rows = self._rows()
        return (self._sample(line, row) for line, row in rows)

    def score(self, sample: Sample, answer: str) -> float:
        return SCORINGS[self.scoring](answer, sample.references)

    def fingerprint(self) -> str:
        """SHA-256 of the question file and of every picture it names. Raises JsonlError as `samples` does."""
        digest = hashlib.sha256((self.path / FILE).read_bytes() if (self.path / FILE).is_file() else b"")
        for name in sorted({name for _, row in self._rows() for name in row.pictures}):
            digest.update(hashlib.sha256((self.path / name).read_bytes()).digest())
        return digest.hexdigest()

    def has_regions(self, limit: int | None = None) -> bool:
        """Whether any of the first ``limit`` lines has regions. Raises JsonlError as `samples` does."""
        return any(row.regions for _, row in self._rows()[:limit])

    def sample_count(self) -> int:
        """How many questions there are. Raises JsonlError as `samples` does."""
        return len(self._rows())

    def _rows(self) -> list[tuple[int, _Row]]:
        """Line numbers and rows."""
        path = self.path / FILE
        if not path.is_file():
            raise JsonlError([f"there is no {FILE}; the current directory is {Path.cwd()}"], self.path)
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise JsonlError([f"{FILE} is not UTF-8: {error}"], self.path) from None
        rows: list[tuple[int, _Row]] = []
        problems: list[str] = []
        lines_of: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = _Row.model_validate_json(line)
            except ValidationError as error:
                problems += [f"{FILE}:{number}: {fault}" for fault in _faults(error)]
                continue
            found = [*self._misplaced(row), *self._unscorable(row)]
            if (first := lines_of.setdefault(row.id or str(number), number)) != number:
                found.append(f"the id {row.id or str(number)!r} is that of line {first} already")
            problems += [f"{FILE}:{number}: {fault}" for fault in found]
            rows.append((number, row))
        if not rows and not problems:
            problems.append(f"{FILE} holds no question")
        if problems:
            raise JsonlError(problems, self.path)
        return rows

    def _misplaced(self, row: _Row) -> Iterator[str]:
        """Pictures that are not there, or not in the folder."""
        root = self.path.resolve()
        for name in row.pictures:
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                yield f"picture {name!r} lies outside the folder; copy it in and use a relative path"
            elif not path.is_file():
                near = [entry.relative_to(root).as_posix() for entry in path.parent.glob("*")]
                yield f"there is no picture {name!r}.{did_you_mean(name, near[:50]) if len(near) <= 50 else ''}"

    def _unscorable(self, row: _Row) -> Iterator[str]:
        if (self.scoring == "choice") != bool(row.choices):
            yield f"'choices' and scoring 'choice' go together; scoring is {self.scoring!r}"
        elif row.choices and (len(row.correct) != 1 or _place(row) is None):
            named = ", ".join(LETTERS[: len(row.choices)])
            yield f"the answer {row.correct} is not one of the choices: expected {named}, or the text of one"
        elif self.scoring == "vqa" and len(row.correct) < 3:
            yield f"scoring 'vqa' needs the answers of at least 3 people, got {len(row.correct)}"

    def _sample(self, line: int, row: _Row) -> Sample:
        pictures = tuple(self._open(line, name) for name in row.pictures)
        visuals: tuple[Part, ...] = (Video(pictures, row.fps),) if row.video else pictures
        question, references = row.question, tuple(row.correct)
        if row.choices:
            options = [f"{letter}. {text}" for letter, text in zip(LETTERS, row.choices, strict=False)]
            question = "\n".join([question, *options, _ASK_LETTER])
            place = _place(row)
            assert place is not None
            references = (LETTERS[place], row.choices[place])
        regions = tuple(Region(one.visual, (*one.box,), one.frame) for one in row.regions)  # type: ignore[arg-type]
        return Sample(row.id or str(line), (*visuals, question), references, row.type, regions, row.group)

    def _open(self, line: int, name: str) -> Image.Image:
        try:
            with Image.open(self.path / name) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise JsonlError([f"{FILE}:{line}: picture {name!r} cannot be read: {error}"], self.path) from error


def _place(row: _Row) -> int | None:
    """Which choice is the correct one, counted from 0."""
    (answer,) = row.correct
    letters = LETTERS[: len(row.choices)]
    if answer in row.choices:
        return row.choices.index(answer)
    return letters.index(answer.upper()) if len(answer) == 1 and answer.upper() in letters else None


def _faults(error: ValidationError) -> Iterator[str]:
    known = list(_Row.model_fields)
    for fault in error.errors():
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            yield f"unknown key {where!r}.{did_you_mean(where, known)}"
        elif fault["type"] == "missing":
            yield f"the key {where!r} is missing"
        elif fault["type"] == "json_invalid":
            yield f"not a JSON object: {fault['msg'].removeprefix('Invalid JSON: ')}"
        else:
            for message in fault["msg"].removeprefix("Value error, ").split("\n"):
                yield f"{where}: {message} (got {_short(fault['input'])})" if where else message


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
