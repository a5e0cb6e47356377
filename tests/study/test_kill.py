"""Killed at any moment, resumed, and the results are those of a run that was left in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.study.fakes import BEGUN, content, make_cell, make_store
from vtprune.study.cell import Cell
from vtprune.study.store import Store

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from tests.study.fakes import FAKE
from vtprune.study.executors import execute
from vtprune.study.store import Store

if __name__ == "__main__":
    print("ready", flush=True)
    store = Store(sys.argv[1])
    outcome = execute(store, store.cells(), executor=sys.argv[2], workers=2, factory=FAKE)
    print(outcome.interrupted, outcome.left)
"""


def start(store: Store, executor: str = "inline") -> subprocess.Popen[str]:
    """A run of its own that has come as far as its first cell."""
    script = store.folder.parent / "run.py"
    script.write_text(CODE)
    run = subprocess.Popen(
        [sys.executable, str(script), str(store.folder), executor],
        env={"PYTHONPATH": str(ROOT), BEGUN: str(begun(store))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # A test session in the background of a script ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    return run


def begun(store: Store) -> Path:
    """Holds a byte for each chunk that was begun."""
    return store.folder.parent / "begun"


def chunks_begun(store: Store) -> int:
    file = begun(store)
    return file.stat().st_size if file.exists() else 0


def wait_for(run: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Wait while the run lives."""
    while not happened():
        assert run.poll() is None, run.communicate()
        time.sleep(0.005)


def finish(run: subprocess.Popen[str]) -> str:
    out, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, "")
    return out


def cells(samples: int = 30) -> list[Cell]:
    """Chunks of 20 ms."""
    return [make_cell(label, samples=samples, batch=2, seconds=0.02) for label in ("a", "b", "c", "d")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run gives that is left in peace."""
    store = make_store(tmp_path_factory.mktemp("peace") / "out", cells())
    finish(start(store))
    store.finalise()
    return content(store)


def test_twenty_kills_change_nothing(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """60 chunks of 20 ms; a run lives for 0 to 50 ms after its start or, more often, after it has begun a chunk."""
    store = make_store(tmp_path / "out", cells())
    chance = random.Random(0)
    for _ in range(20):
        before = chunks_begun(store)
        run = start(store)
        if chance.random() < 0.7:
            wait_for(run, lambda before=before: chunks_begun(store) > before)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.05))
        run.kill()
        run.communicate()
    done = sum(store.state(cell).samples_done for cell in store.cells())
    assert 0 < done < 120  # the kills did come in between
    finish(start(store))
    store.finalise()
    assert content(store) == expected
    assert len(expected) == 6


def test_two_runs_at_once_share_the_work_and_change_nothing(tmp_path: Path, expected: dict[str, bytes]) -> None:
    store = make_store(tmp_path / "out", cells())
    runs = [start(store), start(store)]
    for run in runs:
        finish(run)
    if not all(map(store.finished, store.cells())):  # one ended while the other one was at its last cell
        finish(start(store))
    store.finalise()
    assert content(store) == expected
    log = (store.folder / "log.txt").read_text()
    assert log.count(" finished mini") == 4  # no cell was answered twice


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_ctrl_c_ends_a_run_and_keeps_what_is_done(tmp_path: Path, expected: dict[str, bytes], executor: str) -> None:
    store = make_store(tmp_path / "out", cells())
    run = start(store, executor)
    wait_for(run, lambda: any(store.state(cell).samples_done for cell in store.cells()))
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does it: to the whole group
    assert finish(run).startswith("True")
    if executor == "processes":  # the chunks in hand were completed
        assert sum(store.state(cell).samples_done for cell in store.cells()) == 2 * chunks_begun(store)
    assert not list(store.folder.glob("errors/*"))
    assert not all(map(store.finished, store.cells()))
    assert "run interrupted" in (store.folder / "log.txt").read_text()
    finish(start(store, executor))
    store.finalise()
    assert content(store) == expected


@pytest.mark.parametrize("delay", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_ctrl_c_while_workers_start(tmp_path: Path, delay: float) -> None:
    """A process takes about 0.2 s to import what it needs."""
    store = make_store(tmp_path / "out", cells(samples=400))
    run = start(store, "processes")
    log = store.folder / "log.txt"
    wait_for(run, lambda: log.exists() and "run begins" in log.read_text())
    time.sleep(delay)
    os.killpg(run.pid, signal.SIGINT)
    assert finish(run).startswith("True")
    assert "run interrupted" in log.read_text()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", cells(samples=400))
    run = start(store, "processes")
    wait_for(run, lambda: sum(bool(store.state(cell).samples_done) for cell in store.cells()) >= 2)
    run.kill()
    run.communicate()
    end = time.monotonic() + 10
    while any(store.claim(cell) is None for cell in store.cells()):  # a claim that is not kept is released at once
        assert time.monotonic() < end
        time.sleep(0.05)
    assert 0 < sum(store.state(cell).samples_done for cell in store.cells()) < 1600
