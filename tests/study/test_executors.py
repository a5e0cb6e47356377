"""Executors: the same rows from each, failures that stay with their cell, workers that die."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.study.fakes import BROKEN, FAKE, PLUGIN, FakeWorker, content, make_cell, make_store
from vtprune.study.executors import ExecutorError, Outcome, execute
from vtprune.study.executors.work import by_model, walk
from vtprune.study.extras import MissingExtraError
from vtprune.study.names import Executor
from vtprune.study.store import Store, StoreError

RAY = pytest.param(
    "ray",
    marks=[pytest.mark.slow, pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")],
)
EXECUTORS = ["inline", "processes", RAY]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_executor_gives_the_same_rows_and_keeps_a_failure_to_its_cell(tmp_path: Path, executor: Executor) -> None:
    good = [make_cell(label, model) for model in ("mini", "midi") for label in "abc"]
    bad = make_cell("bad", raises="no\ntokens left")
    reference = make_store(tmp_path / "reference", good)
    for cell in good:
        claim = reference.claim(cell)
        assert claim is not None
        with claim:
            FakeWorker().run(cell, claim, lambda samples: None)
    store = make_store(tmp_path / "out", [bad, *good])
    outcome = execute(store, store.cells(), executor=executor, workers=2, factory=FAKE)
    assert outcome == Outcome(0, 6, {bad.id: "RuntimeError: no\ntokens left"}, 0, False)
    assert store.state(bad).samples_done == 3
    store.cell_file(bad).rename(tmp_path / "bad")
    assert content(store) == content(reference)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "failed mini / made-up / bad budget=0.25 seed=3 after 3 samples: RuntimeError: no tokens left" in log
    assert log.count(" finished mi") == 6


@pytest.mark.parametrize("executor", ["processes", RAY])
def test_a_worker_that_dies_is_replaced_and_a_cell_that_kills_again_fails(tmp_path: Path, executor: Executor) -> None:
    once, always = make_cell("once", kills=str(tmp_path / "killed")), make_cell("always", samples=40, kills="always")
    store = make_store(tmp_path / "out", [once, always, make_cell("other")])
    outcome = execute(store, store.cells(), executor=executor, workers=2, factory=FAKE)
    assert (outcome.finished, outcome.left, list(outcome.failed)) == (2, 0, [always.id])
    assert "2 workers died at this cell" in outcome.failed[always.id]
    assert "Out of memory?" in outcome.failed[always.id]
    assert 6 <= store.state(always).samples_done < 40  # what was stored before each death is there
    assert len(re.findall(r" died( \(killed by SIGKILL\))? at mini", (store.folder / "log.txt").read_text())) >= 3


def test_a_failed_cell_is_tried_again_by_the_next_run_only(tmp_path: Path) -> None:
    bad = make_cell("bad", raises="boom")
    store = make_store(tmp_path / "out", [bad, make_cell()])
    for attempt in (1, 2):
        outcome = execute(store, store.cells(), factory=FAKE)
        assert outcome.failed == {bad.id: "RuntimeError: boom"}
        assert store.attempts(bad) == attempt
    outcome = execute(store, store.cells(), factory=FAKE)  # the third attempt finds all three chunks
    assert (outcome.before, outcome.failed) == (1, {bad.id: "RuntimeError: boom"})
    assert execute(store, store.cells(), factory=FAKE) == Outcome(1, 1, {}, 0, False)


def test_a_plugin_that_is_missing_fails_its_cell_with_its_name(tmp_path: Path) -> None:
    cell = make_cell()
    store = make_store(tmp_path / "out", [cell])
    outcome = execute(store, [cell], factory=PLUGIN)
    assert "unknown task 'made-up'" in outcome.failed[cell.id]
    assert "unknown task 'made-up'" in (store.state(cell).error or "")


def test_a_cell_that_another_run_works_on_is_left_to_it(tmp_path: Path) -> None:
    cells = [make_cell("a"), make_cell("b")]
    store = make_store(tmp_path / "out", cells)
    claim = Store(tmp_path / "out").claim(cells[0])
    assert claim is not None
    with claim:
        assert execute(store, cells, factory=FAKE) == Outcome(0, 1, {}, 1, False)


def test_a_damaged_file_fails_its_cell_alone(tmp_path: Path) -> None:
    damaged, other = make_cell("a"), make_cell("b")
    store = make_store(tmp_path / "out", [damaged, other])
    store.cell_file(damaged).write_bytes(b"garbage\n\n")
    outcome = execute(store, [damaged, other], factory=FAKE)
    assert outcome.finished == 1
    assert f"{damaged.id}.jsonl, line 1" in outcome.failed[damaged.id]
    assert store.cell_file(damaged).read_bytes() == b"garbage\n\n"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_store_that_cannot_be_written_stops_the_run(tmp_path: Path, executor: Executor) -> None:
    cells = [make_cell("a"), make_cell("b")]
    store = make_store(tmp_path / "out", cells)
    (tmp_path / "out" / "cells").rmdir()
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        execute(store, cells, executor=executor, workers=2, factory=FAKE)
    assert "run stopped: StoreError" in (tmp_path / "out" / "log.txt").read_text()
    assert not list((tmp_path / "out").glob("errors/*"))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_workers_that_cannot_be_made_stop_the_run(tmp_path: Path, executor: Executor) -> None:
    cells = [make_cell("a"), make_cell("b")]
    store = make_store(tmp_path / "out", cells)
    with pytest.raises(ExecutorError, match=r"cannot be made: OSError: libcuda\.so not found"):
        execute(store, cells, executor=executor, workers=2, factory=BROKEN)
    assert not list((tmp_path / "out").glob("errors/*"))


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_nothing_to_do_starts_no_worker(tmp_path: Path, executor: Executor) -> None:
    store = make_store(tmp_path / "out", [make_cell()])
    execute(store, store.cells(), factory=FAKE)
    assert execute(store, store.cells(), executor=executor, factory=BROKEN) == Outcome(1, 0, {}, 0, False)


def test_cells_are_grouped_so_that_a_model_is_loaded_once(tmp_path: Path) -> None:
    cells = [make_cell(label, model) for label in "ab" for model in ("mini", "midi", "maxi")]
    store = make_store(tmp_path / "out", cells)
    worker = FakeWorker()
    walk(lambda: worker, store, by_model(cells), {}, lambda samples: None)
    assert worker.models == ["mini", "midi", "maxi"]
    assert [cell.model.id for cell in by_model(cells, 4)] == ["midi", "midi", "maxi", "maxi", "mini", "mini"]


def test_bad_arguments_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "out", [make_cell()])
    with pytest.raises(ExecutorError, match=r"unknown executor 'process'\. Did you mean 'processes'"):
        execute(store, store.cells(), executor="process")  # type: ignore[arg-type]
    with pytest.raises(ExecutorError, match="workers=0"):
        execute(store, store.cells(), workers=0)
    with pytest.raises(ExecutorError, match=r"'nowhere:Worker' cannot be imported: No module named 'nowhere'"):
        execute(store, store.cells(), factory="nowhere:Worker")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vtprune\[ray\]'"):
        execute(store, store.cells(), executor="ray", factory=FAKE)
