"""Scoring of answers in words."""

from __future__ import annotations

import pytest

from vtprune.tasks.scoring import choice, contains, exact, vqa


@pytest.mark.parametrize(("answer", "score"), [("Red", 1), (" red. ", 1), ("dark  Red", 1), ("reddish", 0), ("", 0)])
def test_exact(answer: str, score: float) -> None:
    assert exact(answer, ["red", "dark red"]) == score


@pytest.mark.parametrize(
    ("answer", "score"), [("it is red, I think", 1), ("RED", 1), ("reddish", 0), ("infrared", 0), ("c++ it is", 1)]
)
def test_contains(answer: str, score: float) -> None:
    assert contains(answer, ["red", "C++"]) == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B. a dog", 1),
        ("B: because", 1),
        ("a dog", 1),
        ("The answer is B.", 1),
        ("Answer: (b)", 1),
        ("A", 0),
        ("A dog and a cat", 0),
        ("Because", 0),
        ("", 0),
    ],
)
def test_choice(answer: str, score: float) -> None:
    assert choice(answer, ["B", "a dog"]) == score


def test_an_article_is_not_the_letter_a() -> None:
    assert choice("A dog", ["A", "a cat"]) == 0
    assert choice("A cat", ["A", "a cat"]) == 1


@pytest.mark.parametrize(("people", "score"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (9, 1)])
def test_vqa_is_the_share_of_three_people(people: int, score: float) -> None:
    assert vqa("Two", ["2"] * people + ["three"] * (10 - people)) == pytest.approx(score)


def test_vqa_drops_articles_and_punctuation() -> None:
    assert vqa("The dog!", ["a dog", "dog", "dog."]) == 1
