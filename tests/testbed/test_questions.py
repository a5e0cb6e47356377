"""Every question has the answer that an independent reading of the pictures gives, and points at the right cells."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testbed.reference import answer, tables
from vtprune.testbed.questions import CORE, HOP, MAKERS, MIX, MULTI, Grid, Question, ask
from vtprune.testbed.scenes import CELLS, LEVELS, Scenes, draw_scenes
from vtprune.testbed.sequences import PAIR_MIX, SEQUENCE_MAKERS, VIDEO_MIX, draw_pair, draw_video
from vtprune.testbed.tasks import COUNT
from vtprune.testbed.vocabulary import WORDS

SEEDS = st.integers(0, 2**32)


def asked(seed: int, kind: str, count: int = 40) -> tuple[Scenes, list[Question]]:
    """Scenes of one prompt and questions about it."""
    rng = np.random.default_rng(seed)
    if kind in LEVELS:
        scenes = draw_scenes(rng, 1, LEVELS[kind], "test")  # type: ignore[index]
        grid = Grid(rng, scenes.digit[0], scenes.color[0])
        return scenes, [ask(grid, MIX) for _ in range(count)]
    scenes, sequence = (draw_pair if kind == "pair" else draw_video)(rng, "test")
    mix = PAIR_MIX if kind == "pair" else VIDEO_MIX
    return scenes, [ask(sequence, mix, SEQUENCE_MAKERS) for _ in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["easy", "medium", "hard", "pair", "video"])
@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_answers_agree_with_the_reference(kind: str, seed: int) -> None:
    scenes, questions = asked(seed, kind)
    pictures = tables(scenes)
    for question in questions:
        assert " ".join(question.answer) == answer(question.words, pictures), question
        assert {*question.words, *question.answer} <= set(WORDS)
        assert len(question.answer) <= 8
        assert all(image in range(len(scenes)) and cell in range(CELLS) for image, cell in question.cells)


@pytest.mark.parametrize("kind", ["easy", "medium", "hard", "pair", "video"])
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_cells_suffice(kind: str, seed: int) -> None:
    """Another digit in any cell that is not named leaves the answer as it is, wherever the words are still clear."""
    scenes, questions = asked(seed, kind, 12)
    for question in questions:
        if question.type in ("exist", "list", "count_color", "count_digit", "which_image", "more", "moves", "appears"):
            continue  # these speak of all cells; what is named is what there is to find
        for image, picture in enumerate(tables(scenes)):
            for cell in range(CELLS):
                if (image, cell) in question.cells or picture[cell // 4][cell % 4] is None:
                    continue
                changed = tables(scenes)
                changed[image][cell // 4][cell % 4] = ("x", "y")
                assert answer(question.words, changed) == " ".join(question.answer)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_cells_are_needed(seed: int) -> None:
    """Emptying a named, occupied cell changes the answer or leaves the question without one."""
    scenes, questions = asked(seed, "medium", 20)
    for question in questions:
        if question.type == "exist" and question.answer == ("no",):
            continue  # both halves are only there to tempt
        for _, cell in question.cells:
            changed = tables(scenes)
            if changed[0][cell // 4][cell % 4] is None:
                continue
            changed[0][cell // 4][cell % 4] = None
            try:
                found = answer(question.words, changed)
            except AssertionError:
                continue
            same_pair = question.type == "exist" and found == "yes"  # another digit of this value and colour
            assert same_pair or found != " ".join(question.answer), question


def test_every_type_is_asked_and_grouped() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        for kind in ("easy", "medium", "hard", "pair", "video"):
            seen.update(question.type for question in asked(seed, kind, 20)[1])
    assert set(seen) == {*MIX, *PAIR_MIX, *VIDEO_MIX} == {*MAKERS, *SEQUENCE_MAKERS}
    assert sorted([*CORE, *COUNT, *HOP, *MULTI]) == sorted(MIX)


def test_shares_are_near_those_of_the_mix() -> None:
    seen: Counter[str] = Counter()
    for seed in range(250):
        seen.update(question.type for question in asked(seed, "medium", 16)[1])
    for name, share in MIX.items():
        assert seen[name] / seen.total() == pytest.approx(share, abs=0.025), name


def test_no_answer_can_be_guessed() -> None:
    """The most frequent answer of a type is far from certain. ``yes`` is right more often than ``no``, because a pair
    that is not there by chance only is drawn anew."""
    limits = {"exist": 0.72, "count_digit": 0.62, "count_color": 0.5}
    said: dict[str, Counter[tuple[str, ...]]] = {}
    for seed in range(300):
        for question in asked(seed, "medium", 12)[1]:
            said.setdefault(question.type, Counter())[question.answer] += 1
    for name, answers in said.items():
        assert answers.most_common(1)[0][1] / answers.total() < limits.get(name, 0.3), name
