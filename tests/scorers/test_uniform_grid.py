"""UniformGrid: lattices where they exist, even cover everywhere, fair shares between images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scorers.support import layout, signals_of, tensors_for
from vtprune.core.errors import ComponentError
from vtprune.core.layout import SampleLayout, Segment
from vtprune.core.signals import Need
from vtprune.scorers.uniform_grid import UniformGrid

GRID = Need("grid")


def scores(*grids: tuple[int, int, int], alive: list[int] | None = None) -> torch.Tensor:
    layouts = (layout(*grids),)
    chosen = None if alive is None else torch.tensor([alive])
    return UniformGrid().score(signals_of(tensors_for(UniformGrid(), layouts, chosen), layouts, chosen))[0]


def order(*grids: tuple[int, int, int]) -> torch.Tensor:
    return scores(*grids).argsort(descending=True, stable=True)


def covering_radius(h: int, w: int, kept: torch.Tensor) -> float:
    """The largest distance of any cell to the nearest kept one, in cells."""
    cells = layout((1, h, w)).coordinates()[:, 2:].double()
    return torch.cdist(cells, cells[kept]).amin(dim=1).max().item()


def slow_key(offset: tuple[int, int, int], bits: int) -> tuple[int, ...]:
    """The dither order spelled out: per level, finest first, parity, then planar parity, then column."""
    key: list[int] = []
    for level in range(bits):
        t, row, column = (x // 2**level % 2 for x in offset)
        key += [(t + row + column) % 2, (row + column) % 2, column]
    return tuple(key)


@settings(max_examples=40, deadline=None)
@given(t=st.integers(1, 5), h=st.integers(1, 13), w=st.integers(1, 13))
def test_against_a_slow_reference(t: int, h: int, w: int) -> None:
    middle = [(size - 1) // 2 for size in (t, h, w)]
    cells = [tuple(cell) for cell in layout((t, h, w)).coordinates()[:, 1:].tolist()]
    keys = [slow_key(tuple(x - m for x, m in zip(cell, middle, strict=True)), 5) for cell in cells]
    place = {index: r for r, index in enumerate(sorted(range(len(cells)), key=keys.__getitem__))}
    expected = [1 - (place[index] + 0.5) / len(cells) for index in range(len(cells))]
    torch.testing.assert_close(scores((t, h, w)), torch.tensor(expected))


@pytest.mark.parametrize(("h", "w"), [(24, 24), (16, 16), (12, 20), (8, 40)])
def test_quarter_is_every_second_row_and_column(h: int, w: int) -> None:
    cells = torch.stack([torch.arange(h * w) // w, torch.arange(h * w) % w], dim=-1)
    quarter = cells[order((1, h, w))[: h * w // 4]]
    assert quarter[:, 0].unique().diff().eq(2).all()
    assert quarter[:, 1].unique().diff().eq(2).all()
    assert len(quarter[:, 0].unique()) * len(quarter[:, 1].unique()) == len(quarter)
    half = cells[order((1, h, w))[: h * w // 2]]
    assert len((half.sum(dim=1) % 2).unique()) == 1, "a checkerboard"
    sixteenth = cells[order((1, h, w))[: h * w // 16]]
    assert sixteenth[:, 0].unique().diff().eq(4).all()
    assert sixteenth[:, 1].unique().diff().eq(4).all()


def test_quarter_covers_as_well_as_the_best_lattice() -> None:
    kept = order((1, 24, 24))[:144]
    assert covering_radius(24, 24, kept) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(("h", "w"), [(24, 24), (27, 27), (12, 20), (9, 31), (5, 5)])
def test_covers_better_than_random_and_near_the_ideal_from_a_sixteenth_on(h: int, w: int) -> None:
    ranked = order((1, h, w))
    generator = torch.Generator().manual_seed(0)
    for kept in range(max(9, h * w // 16), h * w, 3):
        radius = covering_radius(h, w, ranked[:kept])
        draws = [torch.randperm(h * w, generator=generator)[:kept] for _ in range(10)]
        chance = sum(covering_radius(h, w, draw) for draw in draws) / len(draws)
        ideal = math.sqrt(h * w / kept / math.pi)  # a disc of a kept token's share of the area
        assert radius <= max(chance, 1.5)
        assert radius <= 2.2 * ideal + 1


def test_the_middle_comes_first() -> None:
    assert order((1, 5, 7))[0] == 2 * 7 + 3
    assert order((3, 3, 3))[0] == 13


def test_frames_of_a_video_alternate() -> None:
    first = layout((4, 4, 4)).coordinates()[order((4, 4, 4))[:32], 1:]
    assert len((first.sum(dim=1) % 2).unique()) == 1, "a checkerboard in space and time"


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4))
def test_images_share_every_count_in_proportion(sizes: list[tuple[int, int, int]]) -> None:
    one = layout(*sizes)
    ranked = order(*sizes)
    segment = one.coordinates()[:, 0]
    for kept in range(one.vision + 1):
        shares = torch.bincount(segment[ranked[:kept]], minlength=len(sizes))
        for part, count in zip(one.segments, shares.tolist(), strict=True):
            # Sainte-Lague: among k images, off by less than k / 2 from the exact share.
            assert abs(count - kept * len(part) / one.vision) <= max(1.0, len(sizes) / 2)


def test_an_image_does_not_depend_on_the_others() -> None:
    alone = scores((1, 3, 5))
    assert torch.equal(scores((1, 4, 4), (1, 3, 5), (2, 2, 2))[16:31], alone)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_survivors_keep_their_order_and_are_ranked_anew(data: st.DataObject) -> None:
    grids = [(1, 3, 4), (1, 2, 5)]
    alive = sorted(data.draw(st.sets(st.integers(0, 21), min_size=1)))
    found = scores(*grids, alive=alive)
    for low, high in ((0, 12), (12, 22)):
        members = [place for place, index in enumerate(alive) if low <= index < high]
        before = scores(*grids)[[alive[place] for place in members]]
        after = found[members]
        assert torch.equal(after.argsort(), before.argsort())
        expected = [(place + 0.5) / len(members) for place in range(len(members))]
        torch.testing.assert_close(after.sort().values, torch.tensor(expected), check_dtype=False)


def test_an_image_without_a_grid_is_refused() -> None:
    bare = SampleLayout(torch.arange(3), (Segment(0, 0, 3),))
    with pytest.raises(ComponentError, match="image 0 has no grid"):
        UniformGrid().score(signals_of({GRID: torch.zeros(1, 3, 4, dtype=torch.int64)}, (bare,)))
