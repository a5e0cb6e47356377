"""Figures: the numbers they show, and that every method can be told apart in files that do not change by themselves."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from tests.study.frames import FakeCell, FakeResults, demo_results, fake_results, scores_of
from tests.study.test_figure_overlays import SQUARE, Squares, overlay_results
from vtprune.study.attribution import attribute
from vtprune.study.figures import curves, effects, overlays, retention, style, timing, types
from vtprune.study.figures.methods import methods, name_without, variants
from vtprune.study.statistics import Summary, summarise


@pytest.fixture(scope="module")
def results() -> FakeResults:
    return demo_results(n=60, seeds=2, budgets=(0.125, 0.25, 0.5))


@pytest.fixture(scope="module")
def summary(results: FakeResults) -> Summary:
    return summarise(results, resamples=100)  # type: ignore[arg-type]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# -- accuracy against cost


def test_points_are_the_summarys_rows(summary: Summary) -> None:
    points = curves.curve_points(summary.accuracy, "flops")
    assert len(points) == len(summary.accuracy)
    assert points["x"].tolist() == summary.accuracy["retained_flops"].tolist()
    assert points["y"].tolist() == summary.accuracy["accuracy"].tolist()
    assert set(points["method"]) == {"unpruned", "downsampled", "good", "plain", "random", "good reversed"}
    assert not points.loc[points["role"].isin(["full", "control"]), "front"].any()
    assert points["front"].any()


def test_a_row_without_an_accuracy_has_no_point(summary: Summary) -> None:
    rows = summary.accuracy.copy()
    rows.loc[rows.index[3], "accuracy"] = np.nan
    assert len(curves.curve_points(rows)) == len(rows) - 1


pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(pairs)
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    cost, gain = (np.array([point[axis] for point in points], float) for axis in (0, 1))
    slow = [
        not any(c <= cost[i] and g >= gain[i] and (c < cost[i] or g > gain[i]) for c, g in points)
        for i in range(len(points))
    ]
    assert curves.pareto(cost, gain).tolist() == slow


def test_every_method_is_in_the_legend_and_off_the_axes(results: FakeResults, summary: Summary) -> None:
    points = curves.curve_points(summary.accuracy)
    figure = curves.draw_curves(points, style.looks(methods(results.cells)))
    assert set(legend(figure)) == {*points["method"], "Pareto front"}
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not box.overlaps(figure.axes[0].get_tightbbox())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert figure.axes[0].get_xscale() == "log"


def test_many_methods_are_cut_to_the_baselines_and_the_best() -> None:
    cells = [
        FakeCell("full", scores_of([1] * 20), "full"),
        FakeCell("random", scores_of([0] * 20), "baseline", retained=0.5),
    ]
    cells += [FakeCell(f"m{i:02d}", scores_of([1] * i + [0] * (20 - i)), retained=0.5) for i in range(20)]
    accuracy = summarise(fake_results(cells), resamples=100).accuracy  # type: ignore[arg-type]
    assert curves.most_telling(accuracy, 5) == ["full", "random", "m17", "m18", "m19"]
    assert len(curves.most_telling(accuracy, 40)) == 22


def heat_results() -> FakeResults:
    """Of 100 tokens ``drop`` keeps 40 or 20 from layer 1 on, ``evict`` stores 30 and 10, ``half`` sees half of it."""
    cells = [
        FakeCell("full", scores_of([1, 1]), "full"),
        FakeCell("drop", scores_of([1, 0])),
        FakeCell("evict", scores_of([1, 0])),
    ]
    cells.append(FakeCell("half", scores_of([1, 0]), downsample=0.5))
    found = fake_results(cells)
    layers = {"full": None, "drop": [[100, 40], [100, 20]], "evict": [[100, 100]] * 2, "half": [[50, 25]] * 2}
    heads = {
        "full": None,
        "drop": [[[100] * 2, [40] * 2], [[100] * 2, [20] * 2]],
        "evict": [[[30, 10], [100, 100]]] * 2,
        "half": [[[50] * 2, [25] * 2]] * 2,
    }
    labels = found.samples["cell"].map(found.cells["label"])
    place = zip(labels, found.samples["index"], strict=True)
    both = [(None, None) if layers[a] is None else (layers[a][i], heads[a][i]) for a, i in place]  # type: ignore[index]
    found.samples["tokens_by_layer"] = pd.Series([pair[0] for pair in both], dtype=object)
    found.samples["kv_by_head"] = pd.Series([pair[1] for pair in both], dtype=object)
    return found


def test_a_smaller_image_is_one_of_the_layers_rows() -> None:
    found = heat_results()
    smaller = found.samples["cell"].str.contains("half")
    found.samples.loc[smaller, ["tokens_by_layer", "kv_by_head"]] = None  # as a worker writes where nothing is pruned
    layers = retention.layer_retention(found.cells, found.samples)
    assert layers.names == ("drop", "evict", "half")
    np.testing.assert_allclose(layers.values[-1], [0.5, 0.5])
    assert retention.head_retention(found.cells, found.samples).names == ("evict",)


def test_layers_are_shares_of_the_unpruned_prompt() -> None:
    found = heat_results()
    layers = retention.layer_retention(found.cells, found.samples)
    assert layers.names == ("drop", "evict", "half")
    np.testing.assert_allclose(layers.values, [[1, 0.3], [1, 1], [0.5, 0.25]])


def test_heads_are_shown_for_what_evicts_only() -> None:
    found = heat_results()
    heads = retention.head_retention(found.cells, found.samples)
    assert heads.names == ("evict",)
    np.testing.assert_allclose(heads.values, [[[0.3, 0.1], [1, 1]]])
    drawn = retention.draw_head_retention(heads).axes[0]
    np.testing.assert_allclose(drawn.images[0].get_array(), [[0.3, 0.1, 1, 1]])
    assert [text.get_text() for text in drawn.texts] == ["30", "10", "100", "100"]


def test_nothing_pruned_gives_an_empty_map() -> None:
    found = fake_results([FakeCell("full", scores_of([1]), "full")])
    found.samples["tokens_by_layer"] = found.samples["kv_by_head"] = None
    assert retention.layer_retention(found.cells, found.samples).names == ()
    assert retention.head_retention(found.cells, found.samples).names == ()


def test_variants_of_a_method_stand_together(results: FakeResults) -> None:
    order = [name.split(" budget")[0] for name in variants(results.cells)]
    assert order == sorted(order, key=order.index)
    assert len(order) == len(set(variants(results.cells))) == 16


# -- by type, time, attribution


def test_the_budget_most_methods_have_and_the_lowest_of_those(summary: Summary) -> None:
    assert types.common_budget(summary.types) == 0.125
    few = summary.types[(summary.types["budget"] != 0.125) | (summary.types["label"] != "good")]
    assert types.common_budget(few) == 0.25
    assert types.common_budget(few[few["budget"].isna()]) is None


def test_bars_are_the_summarys(summary: Summary, results: FakeResults) -> None:
    bars = types.type_bars(summary.types, "type", 0.25)
    assert len(bars) == 3 * 6
    row = bars[(bars["panel"] == "count") & (bars["method"] == "good")].iloc[0]
    mine = results.samples[
        results.samples["cell"].str.contains("/good/") & results.samples["cell"].str.contains("0.25")
    ]
    assert row["accuracy"] == pytest.approx(mine.loc[mine["type"] == "count", "score"].mean())
    figure = types.draw_type_bars(bars, style.looks(methods(results.cells)), order=["where", "count"])
    assert [axes.get_title() for axes in figure.axes] == ["where (n=20)", "count (n=20)", "colour (n=20)"]
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["downsampled", "good", "plain", "random", "good reversed"]
    widths = {patch.get_width() for patch in figure.axes[1].patches}
    assert row["accuracy"] in widths


def test_times_are_per_sample_and_without_stages_twice() -> None:
    found = fake_results([FakeCell("full", scores_of([1] * 4), "full"), FakeCell("a", scores_of([1] * 4))])
    full, a = found.cells.index
    found.times = pd.DataFrame(
        [
            [full, 0, 4, 0.4, 4.0, [], "cpu", "float32"],
            [a, 0, 3, 0.3, 3.0, [0.5, 1.0], "cpu", "float32"],
            [a, 1, 1, 0.1, 1.0, [0.0, 0.5], "gpu", "bfloat16"],
        ],
        columns=found.times.columns,
    )
    parts = timing.time_parts(found.cells, found.times)
    assert parts.index.tolist() == ["full", "a"]
    np.testing.assert_allclose(parts, [[0.1, 1.0, 0.0], [0.1, 0.5, 0.5]])
    assert timing.devices(found.cells, found.times) == ["cpu", "gpu"]


def factorial_results() -> FakeResults:
    rng = np.random.default_rng(0)
    skills = {
        ("attention", "top_k"): 0.9,
        ("attention", "dpp"): 0.8,
        ("none", "dpp"): 0.5,
        ("random", "top_k"): 0.2,
        ("random", "dpp"): 0.3,
    }
    return fake_results(
        [
            FakeCell("factorial", scores_of(rng.random(40) < skill), axes={"scorer": a, "selector": b})
            for (a, b), skill in skills.items()
        ]
    )


def test_interactions_keep_their_place_and_their_holes() -> None:
    found = attribute(factorial_results(), resamples=100)  # type: ignore[arg-type]
    rows, columns, values = effects.interaction_matrix(found.interactions)
    assert (rows, columns) == (["attention", "none", "random"], ["top_k", "dpp"])
    assert np.argwhere(np.isnan(values)).tolist() == [[1, 0]]
    wanted = found.interactions.query("level_a == 'random' and level_b == 'dpp'")["effect"].item()
    assert values[2, 1] == wanted
    figure = effects.draw_effects(found.effects)
    labels = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert labels == ["attention", "none", "random", "top_k", "dpp"]
    shown = effects.draw_interaction(found.interactions).axes[0].images[0].get_array()
    assert sorted(np.ma.filled(shown, np.nan)[~np.isnan(np.ma.filled(shown, np.nan))]) == pytest.approx(
        sorted(found.interactions["effect"])
    )


# -- overlays


def every_figure(results: FakeResults, summary: Summary) -> dict[str, Figure]:
    looks = style.looks(methods(results.cells))
    found = attribute(factorial_results(), resamples=100)  # type: ignore[arg-type]
    heat, shown = heat_results(), overlay_results(SQUARE)
    return {
        "curve": curves.draw_curves(curves.curve_points(summary.accuracy), looks, title="a $x$ title"),
        "layers": retention.draw_layer_retention(retention.layer_retention(heat.cells, heat.samples)),
        "types": types.draw_type_bars(types.type_bars(summary.types, "group", 0.25), looks),
        "times": timing.draw_times(timing.time_parts(results.cells, results.times)),
        "effects": effects.draw_effects(found.effects),
        "interaction": effects.draw_interaction(found.interactions),
        "overlay": overlays.draw_overlay(overlays.overlays(Squares(), shown.cells, shown.samples)[0][0]),
    }


def test_files_are_whole_and_the_same_whatever_the_users_settings(
    results: FakeResults, summary: Summary, tmp_path: Path
) -> None:
    settings = {"font.size": 20.0, "axes.facecolor": "pink", "text.usetex": True}
    written = {}
    for run in ("one", "two"):
        with matplotlib.rc_context(settings if run == "two" else {}):
            for name, figure in every_figure(results, summary).items():
                if run == "one" or name == "curve":
                    for path in style.save(figure, tmp_path / run, name):
                        written[run, path.name] = path.read_bytes()
            assert run == "one" or {name: matplotlib.rcParams[name] for name in settings} == settings
    assert len(written) == (7 + 1) * 3
    for (run, name), content in written.items():
        assert written["one", name] == content, name
        if name.endswith("png"):
            with Image.open(tmp_path / run / name) as picture:
                assert len(picture.convert("RGB").getcolors(2**24) or []) > 3
        elif name.endswith("svg"):
            assert len(list(ElementTree.fromstring(content).iter())) > 50
            assert b"<dc:date>" not in content
        else:
            assert content.startswith(b"%PDF")


def test_a_variant_that_stands_for_a_combination_is_called_as_in_tables() -> None:
    axes = {"budget": 0.5, "factorial.scorer": "attention", "factorial.budget": 0.5}
    assert name_without(axes, "fastv", ("seed",)) == "fastv budget=0.5"
