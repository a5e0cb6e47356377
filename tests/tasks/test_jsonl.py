"""A folder of questions: what it gives, and that every fault is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vtprune.core.spec import build, dump
from vtprune.core.task import Region, Video
from vtprune.tasks.jsonl import FILE, Jsonl, JsonlError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "mine"
    (place / "images").mkdir(parents=True)
    for index, name in enumerate(("red.png", "green.png", "blue.png")):
        color = [0, 0, 0]
        color[index] = 255
        Image.new("RGB", (4 + index, 4), tuple(color)).save(place / "images" / name)
    return place


def write(folder: Path, *rows: dict[str, Any] | str) -> None:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def problems(folder: Path, *rows: dict[str, Any] | str, **options: Any) -> list[str]:
    write(folder, *rows)
    with pytest.raises(JsonlError) as caught:
        Jsonl(path=folder, **options).samples()
    return [problem.removeprefix(f"{FILE}:") for problem in caught.value.problems]


def test_images_videos_and_defaults(folder: Path) -> None:
    write(
        folder,
        {"question": "What colour?", "image": "images/red.png", "answer": "red"},
        "",
        {
            "id": "two",
            "question": "Which is wider?",
            "images": ["images/red.png", "images/blue.png"],
            "answers": ["second", "the blue one"],
            "type": "compare",
            "group": "g",
            "regions": [{"visual": 1, "box": [0, 0, 1.0, 0.5]}],
        },
        {"question": "And then?", "video": ["images/red.png", "images/red.png"], "fps": 4, "answer": "red"},
    )
    one, two, three = Jsonl(path=folder).samples()
    assert (one.id, one.text, one.references, one.type, one.group) == ("1", "What colour?", ("red",), "all", "")
    assert one.visuals[0].getpixel((0, 0)) == (255, 0, 0)
    assert [image.size for image in two.visuals] == [(4, 4), (6, 4)]
    assert (two.id, two.references, two.type, two.group) == ("two", ("second", "the blue one"), "compare", "g")
    assert two.regions == (Region(1, (0, 0, 1.0, 0.5)),)
    (clip,) = three.visuals
    assert isinstance(clip, Video)
    assert (three.id, len(clip.frames), clip.fps) == ("4", 2, 4)


def test_all_faults_at_once_with_their_lines(folder: Path) -> None:
    good = {"question": "q", "image": "images/red.png", "answer": "red"}
    found = problems(
        folder,
        good,
        "{not json",
        "[1]",
        {**good, "imge": "x"},
        {"question": "q", "image": "images/red.png"},
        {**good, "image": "images/rad.png"},
        {**good, "images": ["images/red.png"]},
        {**good, "id": "1"},
        {"image": "images/red.png", "answer": "red"},
        {**good, "regions": [{"visual": 1, "box": [0, 0, 1, 1]}]},
        {**good, "regions": [{"box": [0.5, 0, 0.5, 1]}]},
        {**good, "question": 3},
    )
    assert [int(problem.partition(":")[0]) for problem in found] == list(range(2, 13))
    for problem, words in zip(
        found,
        [
            "not a JSON object",
            "object",
            "unknown key 'imge'. Did you mean 'image",
            "'answer' or 'answers'",
            "no picture 'images/rad.png'. Did you mean 'images/red.png'",
            "exactly one of",
            "the id '1' is that of line 1",
            "'question' is missing",
            "visual 1, but there are 1",
            "left < right",
            "question",
        ],
        strict=True,
    ):
        assert words in problem


def test_a_long_list_of_faults_is_cut(folder: Path) -> None:
    write(folder, *["x"] * 50)
    with pytest.raises(JsonlError, match="and 30 more") as caught:
        Jsonl(path=folder).samples()
    assert len(caught.value.problems) == 50
    assert str(caught.value).count("\n") == 21


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "images/../../secret.png", "link.png"])
def test_no_picture_outside_the_folder(folder: Path, name: str) -> None:
    Image.new("RGB", (2, 2)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (problem,) = problems(folder, {"question": "q", "image": name, "answer": "a"})
    assert "outside the folder" in problem


def test_missing_and_empty_files(folder: Path) -> None:
    with pytest.raises(JsonlError, match=r"there is no questions\.jsonl"):
        Jsonl(path=folder).fingerprint()
    assert problems(folder, "") == [f"{FILE} holds no question"]


def test_a_broken_picture_is_named_with_its_line(folder: Path) -> None:
    (folder / "images" / "red.png").write_bytes(b"no picture")
    write(folder, {"question": "q", "image": "images/red.png", "answer": "a"})
    with pytest.raises(JsonlError, match=r"questions\.jsonl:1: picture 'images/red\.png' cannot be read"):
        list(Jsonl(path=folder).samples())


def test_the_fingerprint_follows_questions_and_pictures(folder: Path) -> None:
    row = {"question": "q", "image": "images/red.png", "answer": "a"}
    write(folder, row)
    first = Jsonl(path=folder).fingerprint()
    assert first == Jsonl(path=folder).fingerprint()
    Image.new("RGB", (9, 9)).save(folder / "images" / "green.png")
    assert Jsonl(path=folder).fingerprint() == first, "a picture that no question names does not count"
    Image.new("RGB", (9, 9)).save(folder / "images" / "red.png")
    second = Jsonl(path=folder).fingerprint()
    write(folder, {**row, "answer": "b"})
    assert len({first, second, Jsonl(path=folder).fingerprint()}) == 3


def test_it_says_whether_it_has_regions(folder: Path) -> None:
    plain = {"question": "What colour?", "image": "images/red.png", "answer": "red"}
    write(folder, plain, plain, {**plain, "regions": [{"box": [0, 0, 1.0, 0.5]}]})
    task = Jsonl(path=folder)
    assert [task.has_regions(limit) for limit in (None, 3, 2)] == [True, True, False]


def test_it_counts_its_questions(folder: Path) -> None:
    plain = {"question": "What colour?", "image": "images/red.png", "answer": "red"}
    write(folder, plain, plain, plain)
    assert Jsonl(path=folder).sample_count() == len(list(Jsonl(path=folder).samples())) == 3


def test_choices(folder: Path) -> None:
    row = {"question": "Which?", "image": "images/red.png", "choices": ["cat", "dog"]}
    write(folder, {**row, "answer": "B"}, {**row, "answer": "cat"})
    task = Jsonl(path=folder, scoring="choice")
    one, two = task.samples()
    assert one.text.split("\n")[:3] == ["Which?", "A. cat", "B. dog"]
    assert (one.references, two.references) == (("B", "dog"), ("A", "cat"))
    assert [task.score(one, said) for said in ("B", "dog", "A", "cat")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "scoring", "words"),
    [
        ({"choices": ["a", "b"], "answer": "C"}, "choice", "not one of the choices"),
        ({"choices": ["a", "b"], "answer": "A"}, "exact", "go together"),
        ({"answer": "A"}, "choice", "go together"),
        ({"answers": ["a", "b"]}, "vqa", "at least 3 people"),
    ],
)
def test_what_a_scoring_needs(folder: Path, change: dict[str, Any], scoring: str, words: str) -> None:
    (problem,) = problems(folder, {"question": "q", "image": "images/red.png", **change}, scoring=scoring)
    assert words in problem


def test_it_is_registered_and_goes_through_plain_data(folder: Path) -> None:
    task = build("task", {"name": "jsonl", "path": str(folder), "scoring": "vqa"})
    assert build("task", dump(task)) == task
