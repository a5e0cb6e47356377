"""The generator of scenes: the distribution, the held-out digits and where a digit is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprune.testbed.digits import HELD_OUT, SIZE, digits
from vtprune.testbed.scenes import CANVAS, CELL, CELLS, GRID, LEVELS, LevelName, coverage, draw_scenes, render
from vtprune.testbed.sequences import MOMENTS, PAIR_LEVEL, VIDEO_LEVEL, draw_pair, draw_video
from vtprune.testbed.vocabulary import COLORS

SEEDS = st.integers(0, 2**32)
LEVEL = st.sampled_from(sorted(LEVELS))


def test_the_splits_share_no_digit() -> None:
    train, test = digits("train").images, digits("test").images
    assert len(test) == HELD_OUT
    originals = train[: 1797 - HELD_OUT]
    assert not {image.tobytes() for image in originals} & {image.tobytes() for image in test}
    nearest = min(np.abs(train - image).mean((1, 2)).min() for image in test[:60])
    assert nearest > 0.005, "a copy for training shows a held-out digit"


def test_every_value_has_digits() -> None:
    for split in ("train", "test"):
        source = digits(split)  # type: ignore[arg-type]
        assert [len(indices) > 20 for indices in source.by_value] == [True] * 10
        assert sorted(np.concatenate(source.by_value)) == list(range(len(source.images)))
        assert (source.images.min(), source.images.max()) == (0, 1)


@given(seed=SEEDS, level=LEVEL)
@settings(max_examples=40, deadline=None)
def test_a_scene_is_within_its_level(seed: int, level: LevelName) -> None:
    scenes = draw_scenes(np.random.default_rng(seed), 8, LEVELS[level], "test")
    occupied = scenes.digit >= 0
    assert np.array_equal(occupied, scenes.color >= 0)
    assert occupied.sum(1).min() >= LEVELS[level].fewest
    assert occupied.sum(1).max() <= LEVELS[level].most
    assert scenes.digit.max() <= 9
    assert scenes.color.max() < len(COLORS)
    assert scenes.offset.min() >= 0
    assert scenes.offset.max() <= CELL - SIZE


def test_the_distribution() -> None:
    """Values, colours, cells and numbers of digits are uniform: chi-squared per degree of freedom near 1."""
    scenes = draw_scenes(np.random.default_rng(5), 4000, LEVELS["medium"], "test")
    occupied = scenes.digit >= 0
    for values, kinds in (
        (scenes.digit[occupied], range(10)),
        (scenes.color[occupied], range(len(COLORS))),
        (np.nonzero(occupied)[1], range(CELLS)),
        (occupied.sum(1), range(6, 11)),
        (scenes.offset[..., 0].ravel(), range(5)),
    ):
        counts = np.array([(values == kind).sum() for kind in kinds])
        assert counts.sum() == len(values)
        expected = counts.mean()
        assert ((counts - expected) ** 2 / expected).sum() / (len(counts) - 1) < 4
    together = np.corrcoef(scenes.digit[occupied], scenes.color[occupied])[0, 1]
    assert abs(together) < 0.02


@given(seed=SEEDS, level=LEVEL)
@settings(max_examples=15, deadline=None)
def test_coverage_is_the_share_of_a_patch_in_the_digits_box(seed: int, level: LevelName) -> None:
    scenes = draw_scenes(np.random.default_rng(seed), 2, LEVELS[level], "test")
    for patches in (12, 6):
        size = CANVAS // patches
        found = coverage(scenes, patches)
        for scene in range(2):
            for cell in range(CELLS):
                box = np.zeros((CANVAS, CANVAS))
                if scenes.digit[scene, cell] >= 0:
                    top = cell // GRID * CELL + scenes.offset[scene, cell, 0]
                    left = cell % GRID * CELL + scenes.offset[scene, cell, 1]
                    box[top : top + SIZE, left : left + SIZE] = 1
                shares = box.reshape(patches, size, patches, size).mean((1, 3)).ravel()
                assert np.allclose(found[scene, cell], shares)


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_digit_changes_its_own_box_only(seed: int) -> None:
    scenes = draw_scenes(np.random.default_rng(seed), 1, LEVELS["medium"], "test")
    hidden = int(np.flatnonzero(scenes.digit[0] >= 0)[0])
    visible = np.ones((1, CELLS), bool)
    visible[0, hidden] = False
    one, other = (render(np.random.default_rng(1), drawn)[0] for drawn in (scenes, scenes.only(visible)))
    rows, columns = np.nonzero((one != other).any(-1))
    top, left = np.divmod(hidden, GRID)
    top, left = top * CELL + scenes.offset[0, hidden, 0], left * CELL + scenes.offset[0, hidden, 1]
    assert len(rows) > SIZE
    assert top <= rows.min() <= rows.max() < top + SIZE
    assert left <= columns.min() <= columns.max() < left + SIZE


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_pairs_and_videos(seed: int) -> None:
    pair, sequence = draw_pair(np.random.default_rng(seed), "test")
    assert len(pair) == len(sequence.grids) == 2
    assert all(PAIR_LEVEL.fewest <= count <= PAIR_LEVEL.most for count in (pair.digit >= 0).sum(1))
    video, sequence = draw_video(np.random.default_rng(seed), "test")
    counts = (video.digit >= 0).sum(1)
    assert np.array_equal(np.diff(counts), [1] * (MOMENTS - 1)), "one digit appears in every moment after the first"
    assert VIDEO_LEVEL.fewest <= counts[-1] <= VIDEO_LEVEL.most
    assert np.array_equal(video.backdrop[0], video.backdrop[-1])
    for before, after in zip(video.digit, video.digit[1:], strict=False):
        assert ((before != after) & (before >= 0)).sum() <= 1, "only one digit moves"
