"""The store: resuming, claims, plans, damage, full disks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.study.fakes import content, make_cell, make_rows, make_store, make_time
from vtprune.study.cell import Cell
from vtprune.study.store import DamagedError, RowError, Store, StoreError


def answer(store: Store, cell: Cell, upto: int | None = None) -> None:
    """What a worker does, but at most ``upto`` chunks, and without finishing then."""
    claim = store.claim(cell)
    assert claim is not None
    assert cell.limit is not None
    with claim:
        for chunk, first in enumerate(range(0, cell.limit, cell.batch_size)):
            if chunk == upto:
                return
            if chunk >= claim.chunks_done:
                rows = make_rows(cell, first, min(cell.batch_size, cell.limit - first))
                claim.append(rows, make_time(cell, chunk, len(rows)))
        claim.finish()


CELL = make_cell()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "out", [CELL])


def test_what_is_appended_is_read_back(store: Store) -> None:
    answer(store, CELL)
    assert store.rows(CELL) == make_rows(CELL, 0, 8)
    assert [(row["chunk"], row["samples"]) for row in store.times(CELL)] == [(0, 3), (1, 3), (2, 2)]
    assert (store.state(CELL).samples_done, store.state(CELL).finished, store.state(CELL).error) == (8, True, None)
    assert store.claim(CELL) is None  # finished
    lines = store.cell_file(CELL).read_text(encoding="utf-8").split("\n")
    assert {k: v for k, v in json.loads(lines[-2]).items() if k != "crc32"} == {"finished": True, "samples": 8}


def test_a_claim_excludes_others_until_it_is_released(store: Store) -> None:
    claim = store.claim(CELL)
    assert claim is not None
    code = (
        "import sys; from tests.study.fakes import make_cell; from vtprune.study.store import Store;"
        "print(Store(sys.argv[1]).claim(make_cell()) is None)"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    with claim:
        assert store.claim(CELL) is None
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(RowError, match="released"):
        claim.append(make_rows(CELL, 0, 3), make_time(CELL, 0, 3))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), samples=st.integers(1, 9), batch=st.integers(1, 4))
def test_a_file_cut_at_any_byte_resumes_to_the_same_content(data: st.DataObject, samples: int, batch: int) -> None:
    cell = make_cell(samples=samples, batch=batch)
    with tempfile.TemporaryDirectory() as folder, patch("os.fsync"):  # for speed
        store = make_store(Path(folder) / "out", [cell])
        answer(store, cell)
        whole, times = store.cell_file(cell).read_bytes(), store.times_file(cell).read_bytes()
        for _ in range(data.draw(st.integers(1, 3), label="kills")):
            size = data.draw(st.integers(0, len(whole)), label="cut")
            kept = data.draw(st.integers(0, 1200), label="cut of the times")  # their length differs from run to run
            os.truncate(store.cell_file(cell), size)
            store.times_file(cell).write_bytes(times[:kept])
            if store.finished(cell):
                continue
            done = whole[:size].count(b"\n")
            assert len(store.scan(cell).chunks) == done
            answer(store, cell)
            assert store.cell_file(cell).read_bytes() == whole
            chunks = [row["chunk"] for row in store.times(cell)]
            kept_lines = min(times[:kept].count(b"\n"), done)
            assert chunks == [*range(kept_lines), *range(done, -(-samples // batch))]


@pytest.mark.parametrize("tail", [b"\0" * 50, b'{"crc32":"00000000","chunk":2,"rows":[]}\n', b"\xff\r\xfe", b"{"])
def test_a_torn_last_line_is_set_aside(store: Store, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer(store, CELL, upto=2)
    good = store.cell_file(CELL).read_bytes()
    store.cell_file(CELL).write_bytes(good + tail)
    assert store.state(CELL).samples_done == 6
    answer(store, CELL, upto=2)
    assert store.cell_file(CELL).read_bytes() == good
    assert store.cell_file(CELL).with_suffix(".jsonl.damaged").read_bytes() == tail
    assert "the last line was incomplete" in caplog.text
    assert "2 chunks before it are kept" in (store.folder / "log.txt").read_text()


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_byte_altered_in_the_middle_is_an_error_and_loses_nothing(place: float, change: int) -> None:
    with tempfile.TemporaryDirectory() as folder, patch("os.fsync"):  # for speed
        store = make_store(Path(folder) / "out", [CELL])
        answer(store, CELL)
        damaged = bytearray(store.cell_file(CELL).read_bytes())
        last = damaged.rfind(b"\n", 0, -1) + 1
        at = int(place * (last - 1))  # without the line feed at the end: altered, it makes one torn line of two
        damaged[at] ^= change
        store.cell_file(CELL).write_bytes(damaged[:-1])  # torn as well, so that the cell is not finished
        line = bytes(damaged[: at + 1]).count(b"\n", 0, at) + 1
        with pytest.raises(DamagedError, match=rf"{CELL.id}\.jsonl, line {line}: is incomplete or was altered"):
            store.claim(CELL)
        assert store.cell_file(CELL).read_bytes() == damaged[:-1]
        failure = store.failure(CELL)
        assert failure is not None
        assert failure["type"] == "DamagedError"
        assert not store.state(CELL).finished
        assert len(store.rows(CELL)) == 3 * (line - 1)


def test_lines_that_are_missing_repeated_or_too_many_are_errors(store: Store) -> None:
    answer(store, CELL)
    first, second, third, end = store.cell_file(CELL).read_bytes().splitlines(keepends=True)
    for lines, fault in [
        ((first, third), "line 2: holds chunk 2, expected chunk 1"),
        ((first, first), "line 2: holds chunk 0, expected chunk 1"),
        ((first, second, end), "line 3: counts 8 samples"),
        ((first, second, third, end, end), "line 5: comes after the line that ends the cell"),
    ]:
        store.cell_file(CELL).write_bytes(b"".join(lines))
        assert fault in (store.state(CELL).error or "")
        assert not store.state(CELL).finished


def test_rows_that_are_no_results_are_refused_and_nothing_is_written(store: Store) -> None:
    rows, time = make_rows(CELL, 0, 3), make_time(CELL, 0, 3)
    claim = store.claim(CELL)
    assert claim is not None
    with claim:
        for bad, fault in [
            ([], "no rows"),
            ([{**rows[0], "score": float("nan")}], "'sample-0', score is nan"),
            ([{**rows[0], "answer": "\ud800"}], "'sample-0', answer is"),
            ([{**rows[0], "kept": object()}], "kept is"),
            ([{**rows[0], "extra": 1}], "extra"),
            (rows[1:], "index 1; rows come in the order of the task"),
            (make_rows(make_cell("other"), 0, 3), "says cell"),
        ]:
            with pytest.raises(RowError, match=fault):
                claim.append(bad, time)  # type: ignore[arg-type]
        with pytest.raises(RowError, match="do not belong to chunk 0"):
            claim.append(rows, make_time(CELL, 1, 3))
        with pytest.raises(RowError, match="no samples"):
            claim.finish()
    assert not store.cell_file(CELL).exists()


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_the_run_and_leaves_the_file_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    answer(store, CELL, upto=1)
    before = store.cell_file(CELL).read_bytes()
    write, written = os.write, []

    def full(handle: int, *data: memoryview) -> int:
        if data and not written and len(data[0]) > 600:  # a chunk's rows: some bytes still fit
            written.append(write(handle, data[0][:100]))
            return 100
        if data and not written:
            return write(handle, data[0])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        StoreError, match=r"cannot be written: the disk (is full|quota is used up)\. .* goes on from there"
    ):
        answer(store, CELL)
    monkeypatch.undo()
    assert store.cell_file(CELL).read_bytes() == before
    assert not list(store.folder.glob("cells/*.damaged"))
    answer(store, CELL)
    assert store.state(CELL).finished
    assert [row["chunk"] for row in store.times(CELL)] == [0, 1, 2]


def test_a_limit_on_file_sizes_is_told_and_survived(store: Store) -> None:
    code = (
        "import resource, sys; from tests.study import test_store as t;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500)); t.answer(t.Store(sys.argv[1]), t.CELL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True)
    assert "StoreError" in run.stderr
    assert "limit on file sizes" in run.stderr
    state = store.state(CELL)
    assert 0 < state.samples_done < 8
    assert not store.scan(CELL).torn
    answer(store, CELL)
    assert store.rows(CELL) == make_rows(CELL, 0, 8)


def test_a_failure_is_kept_until_the_cell_is_finished(store: Store) -> None:
    for attempt in (1, 2):
        claim = store.claim(CELL)
        assert claim is not None
        with claim:
            try:
                raise ZeroDivisionError("no tokens")
            except ZeroDivisionError as error:
                claim.fail(error)
        failure = json.loads(store.error_file(CELL).read_text())
        assert (failure["type"], failure["message"], failure["chunk"]) == ("ZeroDivisionError", "no tokens", 0)
        assert "test_store.py" in failure["traceback"]
        assert store.attempts(CELL) == attempt
    assert store.state(CELL).error == "ZeroDivisionError: no tokens"
    answer(store, CELL)
    assert store.state(CELL).error is None
    assert not store.error_file(CELL).exists()


def test_a_system_without_file_locks_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(StoreError, match="on Windows, run vtprune in WSL"):
        store.claim(CELL)


def test_equal_work_gives_equal_bytes(tmp_path: Path) -> None:
    one, other = (make_store(tmp_path / name, [CELL]) for name in "ab")
    answer(one, CELL)
    answer(other, CELL, upto=1)
    answer(other, CELL)
    assert content(one) == content(other)
    assert one.times_file(CELL).read_bytes() != other.times_file(CELL).read_bytes()
