"""Statistics of a study: against slow references, and what must hold whatever the data are."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.study.frames import FakeCell, FakeResults, demo_results, fake_results, scores_of
from vtprune.core.errors import UnknownNameError
from vtprune.study.statistics import ScoreError, Summary, summarise
from vtprune.study.statistics.paired import holm, resolvable, sign_flip

pytestmark = pytest.mark.filterwarnings("error")


def two(full: list[float], other: list[float], **cell: object) -> FakeResults:
    """The unpruned model and one recipe."""
    return fake_results([FakeCell("full", scores_of(full), role="full"), FakeCell("new", scores_of(other), **cell)])


def only(frame: pd.DataFrame, **where: object) -> pd.Series:
    """The one row with these values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


# Summaries


def test_a_factorial_made_by_hand_keeps_its_recipes_apart() -> None:
    axes = {"selector": "top_k", "allocator": "uniform", "budget": 0.5}
    cells = [
        FakeCell("mine", scores_of(scores), axes={"scorer": name, **axes})
        for name, scores in (("a", [1, 1, 1]), ("b", [0, 0, 0]))
    ]
    assert summarise(fake_results(cells), resamples=100).accuracy["accuracy"].tolist() == [1.0, 0.0]


def test_budgets_of_single_stages_are_compared_with_equal_budgets_only() -> None:
    cells = [FakeCell("random", scores_of([1, 0, 0]), axes={"budget": budget}) for budget in (0.25, 0.5)]
    cells += [
        FakeCell("one", scores_of([1, 1, 1]), axes={"stages.0.budget": 0.25}),
        FakeCell("two", scores_of([1, 1, 1]), axes={"stages.0.budget": 0.5, "stages.1.budget": 0.25}),
    ]
    found = summarise(fake_results(cells), compare_to="random", resamples=100).comparisons
    found = found[found["against"] == "random"]
    assert list(zip(found["label"], found["reference"], strict=True)) == [("one", "random budget=0.25"), ("two", None)]


def assert_equal(one: Summary, other: Summary, keys: list[str]) -> None:
    for name in ("accuracy", "types", "comparisons"):
        left, right = getattr(one, name), getattr(other, name)
        by = [key for key in [*keys, "kind", "type", "against"] if key in left]
        pd.testing.assert_frame_equal(
            left.sort_values(by).reset_index(drop=True), right.sort_values(by).reset_index(drop=True), rtol=1e-9
        )


def test_the_order_of_rows_and_other_variants_do_not_matter() -> None:
    results = demo_results(n=60, seeds=2, budgets=(0.1, 0.5))
    first = summarise(results, compare_to="plain", resamples=200)
    mixed = FakeResults(
        results.cells,
        results.samples.sample(frac=1, random_state=1),
        results.times.sample(frac=1, random_state=2),
        groups=results.groups,
    )
    assert_equal(first, summarise(mixed, compare_to="plain", resamples=200), ["name"])
    mixed.cells = results.cells.iloc[::-1]
    assert_equal(first, summarise(mixed, compare_to="plain", resamples=200), ["name"])
    mixed.cells = results.cells[results.cells["label"].isin(["unpruned", "good"])]
    mixed.samples = results.samples[results.samples["cell"].isin(mixed.cells.index)]
    columns = ["accuracy", "ci_low", "ci_high", "relative", "retained_flops"]
    alone = summarise(mixed, resamples=200).accuracy.set_index("name")[columns]
    pd.testing.assert_frame_equal(alone, first.accuracy.set_index("name")[columns].loc[alone.index])


def test_differences_equal_a_slow_reference() -> None:
    results = demo_results(n=60, seeds=2, budgets=(0.1, 0.5))
    comparisons = summarise(results, compare_to="plain", resamples=200).comparisons
    comparisons = comparisons[~comparisons["own"]]
    joined = results.samples.merge(results.cells[["label", "axes"]], left_on="cell", right_index=True)
    joined["budget"] = [axes.get("budget") for axes in joined["axes"]]
    for row in comparisons.to_dict("records"):
        own = joined[(joined["label"] == row["label"]) & (joined["budget"] == row["budget"])]
        base = joined[joined["label"] == row["against"]]
        base = base if row["against"] == "unpruned" else base[base["budget"] == row["budget"]]
        own, base = own.groupby("sample"), base.groupby("sample")
        difference = own["score"].mean() - base["score"].mean()
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["difference"] == pytest.approx(row["accuracy"] - row["reference_accuracy"])
        assert row["p"] == pytest.approx(sign_flip(difference.groupby(own["group"].first()).sum().to_numpy(), 0))
        assert row["significant"] == (row["p_adjusted"] < 0.05)
        sums = difference.groupby(own["group"].first()).sum().abs()
        step = min(1.0, sums[sums > 1e-9].min()) / 4  # of groups of four
        assert row["resolvable"] == pytest.approx(resolvable(row["se"], 15, step, 0.05, row["n_comparisons"]))
    assert set(comparisons["n_comparisons"]) == {10, 8}
    for _, family in comparisons.groupby("against"):
        np.testing.assert_allclose(family["p_adjusted"], holm(family["p"].tolist()))


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 0.5]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=20))
@settings(max_examples=12, deadline=None)
def test_a_difference_is_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    one, other = ([pair[i] for pair in pairs] for i in (0, 1))
    there, back = (
        summarise(results, resamples=100).comparisons.iloc[0] for results in (two(one, other), two(other, one))
    )
    assert there["difference"] == pytest.approx(-back["difference"])
    assert (there["ci_low"], there["ci_high"]) == pytest.approx((-back["ci_high"], -back["ci_low"]), abs=1e-9)
    assert there["ci_low"] <= there["difference"] <= there["ci_high"]
    assert there["p"] == pytest.approx(back["p"])
    assert there["resolvable"] == pytest.approx(back["resolvable"])


def test_seeds_are_averaged_and_their_spread_is_reported() -> None:
    cells = [FakeCell("full", scores_of([1, 1, 1, 0]), role="full")]
    cells += [FakeCell("new", scores_of(s), axes={"seed": i}) for i, s in enumerate(([1, 1, 0, 0], [1, 0, 0, 0]))]
    summary = summarise(fake_results(cells))
    row = only(summary.accuracy, label="new")
    assert (row["accuracy"], row["n_samples"], row["n_seeds"]) == (0.375, 4, 2)
    assert row["seed_std"] == pytest.approx(np.std([0.5, 0.25], ddof=1))
    assert row["relative"] == pytest.approx(0.5)
    assert row["name"] == "new"
    assert row["axes"] == {}
    assert only(summary.comparisons, label="new")["test"] == "sign flip of clusters"


def test_a_test_is_named_for_what_it_is() -> None:
    row = summarise(two([1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0])).comparisons.iloc[0]
    assert (row["test"], row["p"], row["significant"]) == ("McNemar exact", 2 / 2**6, True)
    shared = demo_results(n=24, budgets=(0.5,))
    row = only(summarise(shared).comparisons, label="good", against="unpruned")
    assert row["test"] == "sign flip of clusters"
    assert not math.isnan(row["p_mcnemar"])


def test_the_named_reference_is_met_at_equal_budget_and_all_budgets_are_one_family() -> None:
    summary = summarise(demo_results(n=40, budgets=(0.1, 0.5)), compare_to="plain")
    named = summary.comparisons[summary.comparisons["against"] == "plain"]
    assert all(row.reference == f"plain budget={row.budget}" for row in named.itertuples())
    assert set(named["label"]) == {"downsampled", "good", "random", "good reversed"}
    assert set(named["n_comparisons"]) == {8}


def test_the_study_file_names_the_reference_unless_the_results_lack_it() -> None:
    results = demo_results(n=20, budgets=(0.5,))
    results.study["compare_to"] = "random"
    assert summarise(results).compare_to == "random"
    results.study["compare_to"] = "elsewhere"
    assert summarise(results).compare_to is None


def test_a_factorial_is_a_family_of_its_own() -> None:
    cells = [FakeCell("full", scores_of([1, 1, 0, 1]), role="full"), FakeCell("new", scores_of([1, 0, 0, 1]))]
    cells += [FakeCell("factorial", scores_of([1, 0, 0, 0]), axes={"scorer": name}) for name in "abc"]
    comparisons = summarise(fake_results(cells)).comparisons
    assert dict(zip(comparisons["name"], comparisons["n_comparisons"], strict=True))["new"] == 1
    assert set(comparisons.loc[comparisons["label"] == "factorial", "n_comparisons"]) == {3}


def test_shares_are_of_the_unpruned_model_also_for_smaller_images() -> None:
    full, half = FakeCell("full", scores_of([1] * 4), role="full"), {"axes": {"budget": 0.5}}
    smaller = FakeCell("smaller", scores_of([1] * 4), "baseline", downsample=0.5, **half)
    cells = [full, smaller, FakeCell("new", scores_of([1] * 4), retained=0.25)]
    accuracy = summarise(fake_results(cells)).accuracy.set_index("label")
    assert accuracy["retained_input"].tolist() == [1.0, 0.5, 0.25]
    assert accuracy["retained_mean"].tolist() == accuracy["retained_kv"].tolist() == [1.0, 0.5, 0.25]
    assert accuracy["retained_flops"].tolist() == pytest.approx([1.0, 70 / 120, 45 / 120])
    assert accuracy["retained_kv_bytes"].tolist() == pytest.approx([1.0, 70 / 120, 45 / 120])
    assert accuracy["seconds"].tolist() == pytest.approx([0.5] * 3)
    without = summarise(fake_results(cells[1:])).accuracy.set_index("label")
    assert math.isnan(without.loc["smaller", "retained_input"])
    assert without.loc["new", "retained_input"] == 0.25


def test_groups_are_means_of_their_types() -> None:
    ids = [f"q{i:03d}" for i in range(10)]
    kinds = dict(zip(ids, ["a"] * 2 + ["b"] * 6 + ["c"] * 2, strict=True))
    cells = [FakeCell("full", scores_of([1, 0, 1, 1, 1, 1, 1, 0, 0, 0]), role="full")]
    results = fake_results(cells, types=kinds, type_groups={"made-up": {"mixed": ["a", "b", "z"], "none": ["z"]}})
    types = summarise(results).types
    assert only(types, type="b")["accuracy"] == pytest.approx(5 / 6)
    mixed = only(types, type="mixed")
    assert mixed["accuracy"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert mixed["ci_low"] < mixed["accuracy"] < mixed["ci_high"]
    assert (mixed["n_samples"], mixed["absent"]) == (8, ["z"])
    none = only(types, type="none")
    assert (none["n_samples"], math.isnan(none["accuracy"]), none["absent"]) == (0, True, ["z"])


# What is unfinished or degenerate


def test_only_common_samples_are_compared_and_a_partial_cell_says_so() -> None:
    row = only(summarise(two([1, 1, 1, 0], [0, 1], status="partial")).accuracy, label="new")
    assert (row["status"], row["n_samples"], row["n_expected"]) == ("partial", 2, 4)
    assert row["relative"] == 0.5
    assert "2 of 4" in row["note"]
    row = summarise(two([1, 1, 1, 0], [0, 1], status="partial")).comparisons.iloc[0]
    assert (row["difference"], row["n_samples"], row["reference_accuracy"]) == (-0.5, 2, 1.0)
    assert "2 of 4 samples in common" in row["note"]


def test_cells_without_answers_are_listed_with_their_error() -> None:
    cells = [FakeCell("full", scores_of([1, 0]), role="full"), FakeCell("new", {}, status="missing")]
    cells.append(FakeCell("broken", {}, status="failed", error="out of memory"))
    summary = summarise(fake_results(cells, type_groups={"made-up": {"every": ["all"]}}))
    assert summary.accuracy["status"].tolist() == ["complete", "missing", "failed"]
    assert "out of memory" in summary.accuracy["note"].iloc[2]
    assert summary.accuracy["accuracy"].isna().tolist() == [False, True, True]
    assert summary.comparisons["p"].isna().all()
    assert not summary.comparisons["significant"].any()
    assert "no sample in common" in summary.comparisons["note"].iloc[0]


def test_without_an_unpruned_model_there_is_nothing_relative() -> None:
    summary = summarise(fake_results([FakeCell("new", scores_of([1, 0, 1]))]))
    assert math.isnan(summary.accuracy["relative"].iloc[0])
    row = summary.comparisons.iloc[0]
    assert (row["reference"], row["n_samples"], row["significant"]) == (None, 0, False)
    assert "no variant 'unpruned'" in row["note"]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("n", [1, 5])
def test_equal_answers_are_no_difference(n: int, value: float) -> None:
    summary = summarise(two([value] * n, [value] * n))
    row = summary.comparisons.iloc[0]
    assert (row["difference"], row["p"], row["p_adjusted"], row["significant"]) == (0, 1, 1, False)
    assert row["ci_low"] < 0 < row["ci_high"]
    assert row["resolvable"] > 0
    assert math.isnan(only(summary.accuracy, label="new")["relative"]) == (value == 0)


def test_a_constant_difference_has_an_interval_and_one_sample_proves_nothing() -> None:
    row = summarise(two([1] * 8, [0] * 8)).comparisons.iloc[0]
    assert row["difference"] == -1 == row["ci_low"] < row["ci_high"] < 0
    assert row["significant"]
    row = summarise(two([1], [0])).comparisons.iloc[0]
    assert (row["p"], row["significant"]) == (1, False)
    assert row["ci_high"] > 0


def test_no_cells_give_empty_frames_with_their_columns() -> None:
    results = fake_results([])
    summary = summarise(results)
    assert len(summary.accuracy) == len(summary.types) == len(summary.comparisons) == 0
    assert {"accuracy", "relative", "seconds"} <= set(summary.accuracy.columns)
    results.cells = pd.DataFrame()
    assert summarise(results).accuracy.empty


def test_errors_name_the_fault() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'good'"):
        summarise(demo_results(n=12, budgets=(0.5,)), compare_to="god")
    with pytest.raises(ScoreError, match=r"score 1\.5, expected a number from 0 to 1"):
        summarise(two([1], [1.5]))
    with pytest.raises(ScoreError, match="score nan"):
        summarise(two([1], [math.nan]))
    results = two([1], [1])
    results.samples = pd.concat([results.samples, results.samples])
    with pytest.raises(ScoreError, match="twice"):
        summarise(results)
    with pytest.raises(ValueError, match=r"write 0\.95"):
        summarise(results, confidence=95)
    with pytest.raises(ValueError, match="at least 100"):
        summarise(results, resamples=5)
