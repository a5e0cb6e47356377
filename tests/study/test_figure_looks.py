"""Colours, markers and places: no two methods look alike, and none hides another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.study.frames import FakeCell, fake_results, scores_of
from vtprune.study.figures import curves, style
from vtprune.study.figures.methods import Method, methods
from vtprune.study.statistics import summarise


def test_looks_tell_forty_methods_apart() -> None:
    found = style.looks([Method(f"m{i}", f"m{i}", "recipe") for i in range(40)])
    assert len({(look.color, look.marker) for look in found.values()}) == 40


def test_no_two_methods_of_the_quickstart_have_one_colour_but_a_control_and_its_recipe() -> None:
    named = ["random", "uniform_grid", "downsample"]
    found = [Method("full", "full", "full"), *(Method(name, name, "baseline") for name in named)]
    recipes = ["divprune", "fastv K=3", "fastv K=5", "cls_attention", "plphp", "greedyprune", "other"]
    found += [Method(name, name, "recipe") for name in recipes]
    found += [Method(f"{name} (random)", f"{name} (random)", "control", name) for name in recipes]
    looks = style.looks(found)
    colours = [looks[name].color for name in ["full", *named, *recipes]]
    assert len(set(colours)) == len(colours)
    assert len({(look.color, look.marker, look.line, look.filled) for look in looks.values()}) == len(found)
    again = style.looks([Method(f"m{i}", f"m{i}", "recipe") for i in range(len(style.PALETTE) + 1)])
    first, last = again["m0"], again[f"m{len(style.PALETTE)}"]
    assert first.color == last.color
    assert first.marker != last.marker
    assert first.line != last.line


# Machado, Oliveira and Fernandes (2009), severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear sRGB."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    ratio = np.asarray(to_xyz) @ linear.clip(0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_differ_for_every_kind_of_sight(kind: str) -> None:
    values = np.array([to_rgb(colour) for colour in [*style.PALETTE, style.REFERENCE, "white"]])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.asarray(BLINDNESS[kind]) @ colour) for colour in linear]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 15


def test_points_that_would_hide_one_another_stand_side_by_side() -> None:
    cells = [FakeCell("full", scores_of([1] * 10), "full")]
    for name, right in (("one", 5), ("same", 5), ("near", 5), ("apart", 9)):
        scores = scores_of([1] * right + [0] * (10 - right))
        cells.append(FakeCell(name, scores, retained=0.5, axes={"budget": 0.5}))
        cells.append(FakeCell(name, scores_of([1] * 9 + [0]), retained=1 / (8 + right), axes={"budget": 0.1}))
    results = fake_results(cells)
    points = curves.curve_points(summarise(results, resamples=100).accuracy)  # type: ignore[arg-type]
    points.loc[(points["method"] == "near") & (points["x"] == 0.5), "x"] += 0.001
    figure = curves.draw_curves(points, style.looks(methods(results.cells)))
    figure.draw_without_rendering()
    drawn = {}
    for container in figure.axes[0].containers:
        line = container.lines[0]
        drawn[container.get_label()] = line.get_transform().transform(line.get_xydata())[-1]
    gaps = [np.linalg.norm(drawn[one] - drawn[other]) for one, other in itertools.combinations(drawn, 2)]
    assert min(gaps) > 4 / 72 * figure.dpi
    assert drawn["one"][1] == drawn["same"][1]  # never moved up or down
    alone = figure.axes[0].transData.transform((0.5, 0.9))
    np.testing.assert_allclose(drawn["apart"], alone, atol=1e-6)


def test_a_control_looks_like_its_recipe_but_hollow() -> None:
    found = style.looks(
        [Method("b", "b", "recipe"), Method("a", "a", "recipe"), Method("a (inverted)", "a (inverted)", "control", "a")]
    )
    assert found["a (inverted)"].color == found["a"].color != found["b"].color
    assert not found["a (inverted)"].filled
    assert found["a (inverted)"].line != found["a"].line


# -- heat maps
