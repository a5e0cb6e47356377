from __future__ import annotations

from tests.study.frames import FakeCell, fake_results, scores_of
from vtprune.study.footnotes import PARTIAL, footnotes
from vtprune.study.statistics import summarise


def test_an_error_of_many_variants_is_one_footnote() -> None:
    error = "LoadError: model 'a/b' cannot be loaded. It lacks files."
    cells = [FakeCell("full", scores_of([1, 0]), role="full")]
    cells += [FakeCell(name, {}, status="failed", error=error) for name in ("first", "second")]
    cells += [FakeCell("third", {}, status="failed", error="RuntimeError: too small")]
    summary = summarise(fake_results(cells), compare_to="first", resamples=100)
    found = [note for note in footnotes(summary, summary.accuracy) if note.startswith(PARTIAL)]
    assert found == [
        f"{PARTIAL} first, second: no answers yet; {error}",
        f"{PARTIAL} third: no answers yet; RuntimeError: too small.",
    ]
