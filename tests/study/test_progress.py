"""What is shown while a study runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.study.fakes import FAKE, FakeWorker, make_cell, make_store
from tests.study.test_store import answer
from vtprune.study.executors import execute
from vtprune.study.progress import StudyProgress, total_samples
from vtprune.study.store.tail import Tail

GOOD, BAD = make_cell("good", samples=100), make_cell("bad", raises="no\ntokens")


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_there_is_a_line_for_each_cell_that_ends(tmp_path: Path) -> None:
    early = make_cell("early")
    store = make_store(tmp_path / "out", [early, GOOD, BAD])
    answer(store, early)
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    execute(store, store.cells(), factory=FAKE, listener=StudyProgress(store, store.cells(), console))
    scores = [row["score"] for row in store.rows(GOOD)]
    lines = shown(console).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[2/3] ")
    assert f"good budget=0.25 seed=4: accuracy {sum(scores) / 100:.3f}, 100 samples" in lines[0]
    assert lines[1].startswith("[3/3] ")
    assert lines[1].endswith("failed: RuntimeError: no tokens")


def test_a_failure_that_was_said_is_not_said_again(tmp_path: Path) -> None:
    cells = [make_cell(label, raises=why) for label, why in (("a", "no tokens"), ("b", "no tokens"), ("c", "else"))]
    store = make_store(tmp_path / "out", cells)
    console = Console(file=io.StringIO(), force_terminal=False)
    execute(store, cells, factory=FAKE, listener=StudyProgress(store, cells, console))
    assert [line.partition("failed: ")[2] for line in shown(console).splitlines()] == [
        "RuntimeError: no tokens",
        "as made-up raises=no tokens / a budget=0.25 seed=1",
        "RuntimeError: else",
    ]


def test_on_a_terminal_there_is_a_bar_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    store = make_store(tmp_path / "out", [GOOD, BAD])
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30, legacy_windows=False, _environ={})
    execute(store, store.cells(), factory=FAKE, listener=StudyProgress(store, store.cells(), console))
    end = shown(console).rpartition("finished")[2]
    for part in ("good budget=0.25", "103/108", "samples/s", "1 failed"):
        assert part in end


def test_a_file_is_followed_line_by_line(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", [GOOD])
    tail = Tail(store.cell_file(GOOD))
    assert (tail.update(), tail.finished) == (0, False)
    claim = store.claim(GOOD)
    assert claim is not None
    steps = []
    with claim:
        FakeWorker().run(GOOD, claim, lambda samples: steps.append((samples, tail.update())))
    assert all(told == seen for told, seen in steps)
    assert not tail.finished
    assert tail.update() == 0
    assert tail.finished
    assert tail.accuracy == pytest.approx(sum(row["score"] for row in store.rows(GOOD)) / 100)


def test_half_a_line_is_not_counted_until_it_is_whole(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", [GOOD])
    answer(store, GOOD)
    whole = store.cell_file(GOOD).read_bytes()
    growing = tmp_path / "growing"
    tail, seen = Tail(growing), 0
    for size in range(0, len(whole) + 1, 331):
        growing.write_bytes(whole[:size])
        seen += tail.update()
        assert seen == min(100, whole[:size].count(b"\n") * 3)
    growing.write_bytes(whole)
    tail.update()
    assert tail.finished


def test_the_total_follows_from_the_limit_or_from_a_finished_cell_of_the_task() -> None:
    limited = [make_cell("a", samples=10), make_cell("b", samples=10), make_cell("c", samples=10, other=True)]
    assert total_samples(limited, {}) == 30
    assert total_samples(limited, {limited[0].id: 7}) == 24  # the task has no more; nothing is known of the other task
