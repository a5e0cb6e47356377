"""Attribution against marginal means, statsmodels' analysis of variance, and made-up effects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from tests.study.frames import FakeCell, FakeResults, demo_results, fake_results, scores_of
from vtprune.core.errors import UnknownNameError
from vtprune.study.attribution import Attribution, attribute
from vtprune.study.statistics import summarise

pytestmark = pytest.mark.filterwarnings("error")
Combination = tuple[str, str, float]
ALL = list(itertools.product("ab", "pqr", (0.1, 0.5)))
FACTORS = ("scorer", "selector", "budget")


def grid(combinations: Iterable[Combination], n: int = 60, per_image: int = 1, effect: float = 0.3) -> FakeResults:
    """Right and wrong answers; scorer a is better by ``effect``, and more so with selector r; nothing else matters."""
    rng = np.random.default_rng(0)
    images = np.arange(n) // per_image
    shared = rng.random(images.max() + 1)[images]
    cells = [FakeCell("full", scores_of(np.ones(n)), role="full")]
    for scorer, selector, budget in combinations:
        chance = 0.4 + effect * (scorer == "a") + effect * (scorer == "a" and selector == "r") * 0.8
        answers = 0.5 * shared + 0.5 * rng.random(n) < chance
        axes = {"scorer": scorer, "selector": selector, "budget": budget}
        cells.append(FakeCell("factorial", scores_of(answers), axes=axes))
    return fake_results(cells, {f"q{i:03d}": f"image{images[i]}" for i in range(n)} if per_image > 1 else None)


def accuracies(results: FakeResults) -> pd.DataFrame:
    """One row per cell of the factorial: its factors and its accuracy."""
    means = results.samples.groupby("cell")["score"].mean()
    cells = results.cells[results.cells["label"] == "factorial"]
    frame = pd.DataFrame(list(cells["axes"])).astype(str)
    return frame.assign(y=means.loc[cells.index].to_numpy())


def by(frame: pd.DataFrame, *columns: str) -> dict[tuple[str, ...], float]:
    return {tuple(row[column] for column in columns): row["effect"] for row in frame.to_dict("records")}


def test_balanced_effects_are_marginal_means() -> None:
    results = grid(ALL)
    found, cells = attribute(results, resamples=100), accuracies(results)
    grand, mains = cells["y"].mean(), by(found.effects, "factor", "level")
    assert len(mains) == 7
    for (factor, level), effect in mains.items():
        assert effect == pytest.approx(cells.loc[cells[factor] == level, "y"].mean() - grand)
    pairs = by(found.interactions, "factor_a", "level_a", "factor_b", "level_b")
    assert len(pairs) == 2 * 3 + 2 * 2 + 3 * 2
    for (one, i, other, j), effect in pairs.items():
        mean = cells.loc[(cells[one] == i) & (cells[other] == j), "y"].mean()
        assert effect == pytest.approx(mean - mains[one, i] - mains[other, j] - grand)


@pytest.mark.parametrize("missing", [[], [("a", "p", 0.1)], [("b", "r", 0.5)]])
def test_shares_are_those_of_a_type_two_analysis_of_variance(missing: list[Combination]) -> None:
    results = grid(c for c in ALL if c not in missing)
    found, cells = attribute(results, resamples=100).variance, accuracies(results)
    fit = ols(
        "y ~ C(scorer, Sum) * C(selector, Sum) + C(scorer, Sum) * C(budget, Sum) + C(selector, Sum) * C(budget, Sum)",
        cells,
    )
    table = anova_lm(fit.fit(), typ=2)
    total = ((cells["y"] - cells["y"].mean()) ** 2).sum()
    for row in found.to_dict("records"):
        factors = row["term"].split(" x ") if row["order"] else []
        name = ":".join(f"C({factor}, Sum)" for factor in factors) or "Residual"
        assert row["share"] == pytest.approx(table.loc[name, "sum_sq"] / total, abs=1e-9)
        assert row["df"] == table.loc[name, "df"]
    assert missing or found["share"].sum() == pytest.approx(1)


def test_unbalanced_effects_are_those_of_least_squares() -> None:
    results = grid(c for c in ALL if c not in [("a", "p", 0.1), ("b", "r", 0.5)])
    found, cells = attribute(results, resamples=100), accuracies(results)
    fit = ols("y ~ C(scorer, Sum) + C(selector, Sum) + C(budget, Sum)", cells).fit()
    mains = by(found.effects, "factor", "level")
    assert mains["scorer", "a"] == pytest.approx(fit.params["C(scorer, Sum)[S.a]"])
    assert mains["selector", "q"] == pytest.approx(fit.params["C(selector, Sum)[S.q]"])
    for factor, levels in (("scorer", "ab"), ("selector", "pqr")):
        assert sum(mains[factor, level] for level in levels) == pytest.approx(0)
    residual = fit.resid[(cells["scorer"] == "a") & (cells["selector"] == "p")]
    assert by(found.interactions, "level_a", "level_b")["a", "p"] == pytest.approx(residual.mean())
    assert dict(zip(found.effects["level"], found.effects["n_cells"], strict=True))["p"] == 3


def test_a_real_effect_is_found_and_noise_is_not() -> None:
    found = attribute(grid(ALL, n=240, per_image=4))
    terms = found.variance.set_index("term")
    assert terms["share"].idxmax() == "scorer"
    assert terms.loc[["scorer", "scorer x selector"], "p_adjusted"].max() < 0.05
    assert terms.loc[["budget", "scorer x budget", "rest"], "p_adjusted"].min() > 0.05
    effects = found.effects.set_index(["factor", "level"])
    assert effects.loc[("scorer", "a"), "ci_low"] > 0
    assert effects.loc[("budget", "0.1"), "ci_low"] < 0 < effects.loc[("budget", "0.1"), "ci_high"]
    assert found.notes == ()


def test_intervals_of_effects_cover_and_a_term_of_noise_is_seldom_significant() -> None:
    rng, hits, false = np.random.default_rng(1), 0, 0
    for _ in range(70):
        shared = np.repeat(rng.random(20), 3)
        cells = [
            FakeCell(
                "factorial",
                scores_of(0.6 * shared + 0.4 * rng.random(60) < 0.5 + 0.1 * (a == "x")),
                axes={"s": a, "t": b},
            )
            for a, b in itertools.product("xy", "pq")
        ]
        results = fake_results(cells, {f"q{i:03d}": f"image{i // 3}" for i in range(60)})
        found = attribute(results, resamples=200)
        row = found.effects.set_index("level").loc["q"]
        hits += row["ci_low"] <= 0 <= row["ci_high"]
        false += found.variance.set_index("term").loc["t", "p"] < 0.05
    assert hits / 70 >= 0.88
    assert false / 70 <= 0.13


def test_intervals_hold_their_estimates_and_the_order_of_rows_does_not_matter() -> None:
    results = grid(ALL, n=24, per_image=3)
    first = attribute(results, resamples=200)
    for frame, column in ((first.effects, "effect"), (first.interactions, "effect"), (first.variance, "share")):
        assert (frame["ci_low"] <= frame[column]).all()
        assert (frame[column] <= frame["ci_high"]).all()
    assert (first.variance["p_adjusted"] >= first.variance["p"]).all()
    results.samples = results.samples.sample(frac=1, random_state=1)
    second = attribute(results, resamples=200)
    for name in ("effects", "interactions", "variance"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))


def test_what_the_design_cannot_tell_apart_is_not_claimed() -> None:
    found = attribute(grid(c for c in ALL if (c[0] == "a") == (c[1] == "p")), resamples=100)
    effects = found.effects.set_index(["factor", "level"])["effect"]
    assert effects.loc[["scorer"]].isna().all()
    assert effects.loc[[("selector", "p")]].isna().all()
    assert effects.loc[["budget"]].notna().all()
    assert any("cannot tell the effects of scorer, selector apart" in note for note in found.notes)


def test_partial_and_missing_cells_are_noted() -> None:
    results = grid(ALL, n=20)
    first, second = results.cells.index[1:3]
    samples = results.samples
    short = (samples["cell"] == first) & (samples["sample"] >= "q012")
    results.samples = samples[~short & (samples["cell"] != second)]
    found = attribute(results, resamples=100)
    assert any("12 of 20 samples are in all cells" in note for note in found.notes)
    assert any("no answers yet: factorial scorer=a selector=p budget=0.5" in note for note in found.notes)
    assert dict(zip(found.effects["level"], found.effects["n_cells"], strict=True))["a"] == 5


def test_seeds_are_averaged_and_components_have_readable_levels() -> None:
    cells = [
        FakeCell("grid", scores_of([s, 1, 0]), axes={"scorer": a, "selector": {"name": b, "k": 2}, "seed": s})
        for a in (None, "cls")
        for b in ("top", "mmr")
        for s in (0, 1)
    ]
    found = attribute(fake_results(cells), resamples=100)
    assert found.effects["factor"].unique().tolist() == ["scorer", "selector"]
    assert found.effects["level"].tolist() == ["none", "cls", '{"k": 2, "name": "top"}', '{"k": 2, "name": "mmr"}']
    assert (found.effects["n_cells"] == 2).all()
    assert (found.variance["share"] == 0).all()
    assert (found.variance["p"] == 1).all()


def test_recipes_beside_the_factorial_do_not_disturb_it() -> None:
    results = grid(ALL, n=20)
    extra = [FakeCell(f"other{i}", scores_of(np.ones(20)), axes={"budget": b}) for i in range(20) for b in (0.1, 0.5)]
    more = fake_results(extra)
    axes = [{"layer": layer, "budget": b} for layer in (1, 2) for b in (0.1, 0.5)]
    small = fake_results([FakeCell("layered", scores_of(np.ones(20)), axes=each) for each in axes])
    frames = (more, results, small)
    joined = FakeResults(
        pd.concat([each.cells for each in frames]), pd.concat([each.samples for each in frames]), results.times
    )
    assert by(attribute(joined, resamples=100).effects, "factor", "level") == pytest.approx(
        by(attribute(results, resamples=100).effects, "factor", "level")
    )


def test_a_variant_that_stands_for_a_combination_is_in_the_design_and_keeps_its_name() -> None:
    axes = [
        dict(zip(("scorer", "selector", "allocator", "budget"), c, strict=True))
        for c in itertools.product("ab", "pq", "u", (0.1, 0.5))
    ]
    answers = np.random.default_rng(0).random((len(axes), 12)) < 0.5
    plain = [FakeCell("factorial", scores_of(s), axes=a) for s, a in zip(answers, axes, strict=True)]
    loan = {f"factorial.{axis}": value for axis, value in plain[0].axes.items()}
    lent = [replace(plain[0], label="grid", role="baseline", axes={"budget": 0.1, "seed": 0, **loan})]
    results = fake_results([*lent, *plain[1:]])
    found, whole = (attribute(each, resamples=100) for each in (results, fake_results(plain)))
    assert by(found.effects, "factor", "level") == pytest.approx(by(whole.effects, "factor", "level"))
    assert found.notes == ()
    assert summarise(results, resamples=100).accuracy["name"].iloc[0] == "grid budget=0.1"


def test_factors_can_be_named_the_recipe_among_them() -> None:
    results = demo_results(n=40, budgets=(0.1, 0.5))
    found = attribute(results, factors=["label", "budget"], resamples=100)
    assert found.effects["level"].tolist() == ["good", "plain", "0.1", "0.5"]
    with pytest.raises(UnknownNameError, match="Did you mean 'budget'"):
        attribute(results, factors=["label", "budgt"])


def test_a_study_without_a_factorial_says_so() -> None:
    found: Attribution = attribute(demo_results(n=12, budgets=(0.1, 0.5)))
    assert len(found.effects) == len(found.interactions) == len(found.variance) == 0
    assert any("no factorial" in note for note in found.notes)
    assert len(attribute(fake_results([])).effects) == 0
