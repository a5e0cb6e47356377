"""The plan in a study's folder, and which folders may be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.study.fakes import make_cell, make_store
from tests.study.test_store import answer
from vtprune.study.store import Store, StoreError

STUDY = {"name": "made-up-study", "limit": 8}


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    cells = [make_cell("b"), make_cell("a")]
    store = make_store(tmp_path / "new" / "out", cells)
    again = Store(tmp_path / "new" / "out")
    assert again.cells() == cells
    assert again.study() == {"name": "made-up-study"}
    assert again.groups() == {"made-up": {"words": ["colour"]}}
    assert store.cells()[0].variant.name == "b budget=0.25 seed=1"


def test_a_new_plan_keeps_results_of_the_old_one(tmp_path: Path) -> None:
    old, both, untouched, new = map(make_cell, ("old", "both", "untouched", "new"))
    store = make_store(tmp_path / "out", [old, both, untouched])
    answer(store, old)
    answer(store, both, upto=1)
    for _ in range(2):
        make_store(tmp_path / "out", [both, new])
    assert store.cells() == [both, new]
    assert store.state(both).samples_done == 3
    assert store.state(old).finished
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert [cell["id"] for cell in plan["earlier"]] == [old.id]
    make_store(tmp_path / "out", [old])
    assert store.cells() == [old]


def test_the_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, [make_cell()])
    with pytest.raises(StoreError, match="holds the study 'made-up-study', not 'other'; choose another folder"):
        store.write_plan({"name": "other"}, [make_cell()], {})
    assert store.study()["name"] == "made-up-study"


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"no study folder.*thesis\.tex"):
        make_store(tmp_path, [make_cell()])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(StoreError, match="out cannot be written: File exists"):
        make_store(tmp_path / "out", [make_cell()])


def test_the_same_cell_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="two cells of the plan are the same"):
        make_store(tmp_path / "out", [make_cell(), make_cell()])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"study\.json is missing"):
        Store(tmp_path).study()
    with pytest.raises(StoreError, match=r"plan\.json is missing"):
        Store(tmp_path / "nowhere").cells()


def test_an_edited_plan_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path, [make_cell(samples=8)])
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"samples": 8', '"samples": 9'))
    with pytest.raises(StoreError, match=r"the identity of cell .* was changed"):
        store.cells()
    path.write_text("{")
    with pytest.raises(StoreError, match=r"plan\.json is not valid JSON"):
        store.cells()


@pytest.mark.parametrize("kill_at", range(8))
def test_a_plan_that_was_killed_while_it_was_written_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    """Stands in for a kill at each fsync: nothing after it happens, not even cleaning up."""
    first, second = [make_cell("first")], [make_cell("second")]
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > kill_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    store = Store(tmp_path / "out")
    for cells in (first, second):
        try:
            store.write_plan(STUDY, cells, {})
        except KeyboardInterrupt:
            break
    monkeypatch.undo()
    if (tmp_path / "out" / "plan.json").exists():
        assert store.cells() in (first, second)
    store.write_plan(STUDY, second, {})
    assert store.cells() == second


def test_groups_are_asked_of_the_tasks_and_a_missing_plugin_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="task 'made-up' cannot be planned: unknown task 'made-up'"):
        Store(tmp_path / "out").write_plan(STUDY, [make_cell()])
