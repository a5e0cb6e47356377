"""Results and Parquet files, of finished and unfinished studies."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.study.fakes import FAKE, make_cell, make_rows, make_store, make_time
from tests.study.test_store import answer
from vtprune.core.recipe import Recipe
from vtprune.study.cell import ModelRef, Variant
from vtprune.study.executors import execute
from vtprune.study.extras import MissingExtraError
from vtprune.study.identity import variant_identity
from vtprune.study.labels import model_labels, task_labels
from vtprune.study.results import Results
from vtprune.study.rows import SAMPLE_COLUMNS, TIME_COLUMNS, SampleRow
from vtprune.study.run import progress
from vtprune.study.store import Store, StoreError, lines

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
DONE, PARTIAL, FAILED, MISSING = (
    make_cell("done"),
    make_cell("partial"),
    make_cell("failed", raises="boom"),
    make_cell("m"),
)
CELLS = [PARTIAL, FAILED, DONE, MISSING]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One cell of each status."""
    store = make_store(tmp_path / "out", CELLS)
    execute(store, [DONE, FAILED], factory=FAKE)
    answer(store, PARTIAL, upto=2)
    return store


def test_results_of_an_unfinished_study(store: Store) -> None:
    results = Results.load(store.folder)
    assert list(results.cells.index) == [cell.id for cell in CELLS]
    assert list(results.cells["status"]) == ["partial", "failed", "done", "missing"]
    assert list(results.cells["samples"]) == [6, 3, 8, 0]
    assert results.cells.loc[FAILED.id, "error"] == "RuntimeError: boom"
    assert results.cells["error"].isna().sum() == 3
    first = results.cells.loc[DONE.id]
    assert (first["name"], first["label"], first["role"], first["model"], first["limit"]) == (
        "done budget=0.25 seed=4", "done", "recipe", "mini", 8
    )  # fmt: skip
    assert first["axes"] == {"budget": 0.25, "seed": 4}
    assert tuple(results.samples.columns) == SAMPLE_COLUMNS
    assert tuple(results.times.columns) == TIME_COLUMNS
    done = results.samples[results.samples["cell"] == DONE.id]
    assert done["answer"].tolist() == [row["answer"] for row in make_rows(DONE, 0, 8)]
    assert first["accuracy"] == pytest.approx(done["score"].mean(), rel=1e-12)
    assert (results.study, results.groups) == ({"name": "made-up-study"}, {"made-up": {"words": ["colour"]}})


def test_results_of_nothing_yet_have_their_columns(tmp_path: Path) -> None:
    results = Results.load(make_store(tmp_path, [MISSING]).folder)
    assert tuple(results.samples.columns) == SAMPLE_COLUMNS
    assert list(results.cells["status"]) == ["missing"]
    with pytest.raises(StoreError, match="holds no study"):
        Results.load(tmp_path / "cells")


def test_rows_of_an_earlier_version_have_no_crops_and_load(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", [PARTIAL])
    rows: list[Any] = [
        {name: value for name, value in row.items() if name != "crops"} for row in make_rows(PARTIAL, 0, 3)
    ]
    store.cell_file(PARTIAL).write_bytes(lines.encode({"chunk": 0, "rows": rows}))
    with store.claim(PARTIAL) as claim:  # type: ignore[union-attr]
        claim.append(make_rows(PARTIAL, 3, 3), make_time(PARTIAL, 1, 3))
    found = Results.load(store.folder).samples
    store.finalise()
    table = pd.read_parquet(store.folder / "samples.parquet")
    for samples in (found, table):
        assert tuple(samples.columns) == SAMPLE_COLUMNS
        assert samples["crops"].isna().all()
        assert samples["kept"].notna().tolist() == [True, True, False, False, False, False]


def test_times_of_an_earlier_version_have_no_dtype_and_load(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", [PARTIAL])
    with store.claim(PARTIAL) as claim:  # type: ignore[union-attr]
        claim.append(make_rows(PARTIAL, 0, 3), make_time(PARTIAL, 0, 3))
    time: Any = {name: value for name, value in make_time(PARTIAL, 0, 3).items() if name != "dtype"}
    store.times_file(PARTIAL).write_bytes(lines.encode(time))
    found = Results.load(store.folder).times
    store.finalise()
    for times in (found, pd.read_parquet(store.folder / "times.parquet")):
        assert tuple(times.columns) == TIME_COLUMNS
        assert times["dtype"].isna().tolist() == [True]


def test_cells_of_earlier_plans_are_no_results_but_stay(store: Store) -> None:
    make_store(store.folder, [PARTIAL])
    results = Results.load(store.folder)
    assert set(results.samples["cell"]) == {PARTIAL.id}
    assert store.cell_file(DONE).exists()


def test_how_far_a_cell_is_is_the_same_wherever_it_is_asked(store: Store) -> None:
    planned: Any = SimpleNamespace(cells=CELLS, flops={}, sizes={})
    assert [store.state(cell).status for cell in CELLS] == ["partial", "failed", "done", "missing"]
    found = progress(planned, store.folder)
    assert (found.done, found.partial, found.missing, found.failed) == (1, 1, 1, 1)
    with store.cell_file(DONE).open("ab") as file:
        file.write(b"\n\n")
    found = progress(planned, store.folder)
    assert (found.done, found.partial, found.missing, found.failed) == (0, 1, 1, 2)
    assert Results.load(store.folder).cells["status"].tolist() == [store.state(cell).status for cell in CELLS]


def test_a_damaged_cell_is_a_failed_one(store: Store) -> None:
    lines = store.cell_file(DONE).read_bytes().splitlines(keepends=True)
    store.cell_file(DONE).write_bytes(lines[0] + b"\n" + b"".join(lines[1:]))
    cell = Results.load(store.folder).cells.loc[DONE.id]
    assert cell["status"] == "failed"
    assert f"{DONE.id}.jsonl, line 2" in cell["error"]


def same(row: dict[str, Any], wanted: SampleRow) -> bool:
    return all(row[name] == (pytest.approx(of) if isinstance(of, float) else of) for name, of in wanted.items())


def test_parquet_holds_what_the_store_holds(store: Store) -> None:
    store.finalise()
    samples = pd.read_parquet(store.folder / "samples.parquet")
    assert tuple(samples.columns) == SAMPLE_COLUMNS
    expected = make_rows(PARTIAL, 0, 6) + make_rows(FAILED, 0, 3) + make_rows(DONE, 0, 8)
    for row, wanted in zip(json.loads(samples.to_json(orient="records", double_precision=15)), expected, strict=True):
        assert same(row, wanted)
    times = pd.read_parquet(store.folder / "times.parquet")
    assert times["chunk"].tolist() == [0, 1, 0, 0, 1, 2]
    assert [len(stages) for stages in times["stages"]] == [2] * 6


def test_cells_parquet_has_axes_means_and_identity(store: Store) -> None:
    store.finalise()
    cells = pd.read_parquet(store.folder / "cells.parquet")
    assert list(cells["id"]) == [cell.id for cell in CELLS]
    assert list(cells["status"]) == ["partial", "failed", "done", "missing"]
    assert list(cells["axis.budget"]) == [0.25] * 4
    assert cells["axis.seed"].dtype == "int64"
    assert json.loads(cells["axes"][2]) == {"budget": 0.25, "seed": 4}
    assert json.loads(cells["identity"][2]) == DONE.identity
    rows = make_rows(DONE, 0, 8)
    assert cells["mean_kv_tokens"][2] == pytest.approx(statistics.fmean(row["mean_kv_tokens"] for row in rows))
    assert cells["kv_bytes"][2] == pytest.approx(statistics.fmean(row["kv_bytes"] for row in rows))
    assert pd.isna(cells["accuracy"][3])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([True, False], [True, False]),
        (["auto", 3], ["auto", "3"]),
        ([{"keep_ratio": 0.5}, [1, 2]], ['{"keep_ratio":0.5}', "[1,2]"]),
    ],
)
def test_axes_of_any_kind_are_columns(tmp_path: Path, values: list[object], expected: list[object]) -> None:
    cells = [
        replace(make_cell(str(number)), variant=Variant(str(number), "recipe", axes={"model": value}))
        for number, value in enumerate(values)
    ]
    store = make_store(tmp_path / "out", cells)
    store.finalise()
    assert pd.read_parquet(tmp_path / "out" / "cells.parquet")["axis.model"].tolist() == expected


def test_parquet_can_be_read_by_polars(store: Store) -> None:
    polars = pytest.importorskip("polars")
    store.finalise()
    assert polars.read_parquet(store.folder / "samples.parquet").height == 17
    assert polars.read_parquet(store.folder / "cells.parquet").height == 4


def test_finalising_twice_gives_the_same_bytes_and_leaves_no_other_file(store: Store) -> None:
    names = ("samples.parquet", "cells.parquet")
    store.finalise()
    before = [(store.folder / name).read_bytes() for name in names]
    store.finalise()
    assert [(store.folder / name).read_bytes() for name in names] == before
    assert not list(store.folder.glob(".tmp*"))


def test_the_hash_in_cells_is_that_of_the_recipe_as_it_was_planned(tmp_path: Path) -> None:
    recipe = Recipe.load({**Recipe.load("fastv").to_dict(), "replace": {"llava": "qwen2_5_vl"}})
    assert recipe.hash != Recipe.load("fastv").hash
    variants = [Variant("full", "full"), Variant("fastv", "recipe", recipe=recipe.to_dict())]
    cells = [replace(make_cell(), variant=of, identity={"variant": variant_identity(of)}) for of in variants]
    unplanned = replace(make_cell(), variant=variants[1])
    make_store(tmp_path / "out", [*cells, unplanned])
    hashes = Results.load(tmp_path / "out").cells["recipe_hash"]
    assert hashes.notna().tolist() == [False, True, False]
    assert hashes.iloc[1] == recipe.hash


def test_labels_say_what_differs() -> None:
    cells = [make_cell("a", size=1), make_cell("b", size=2), make_cell("c")]
    assert task_labels(cells) == ["made-up size=1", "made-up size=2", "made-up size=None"]
    assert task_labels(cells[:1]) == ["made-up"]
    assert model_labels(cells) == ["mini"] * 3
    half = replace(cells[0], model=ModelRef("mini", dtype="bfloat16"))
    assert model_labels([cells[0], half]) == ["mini dtype=auto", "mini dtype=bfloat16"]


def test_missing_libraries_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pandas is not installed; run: pip install 'vtprune\[study\]'"):
        Results.load(store.folder)
    with pytest.raises(MissingExtraError, match=r"pyarrow is not installed; run: pip install 'vtprune\[study\]'"):
        store.finalise()


def test_running_imports_nothing_heavy() -> None:
    code = (
        "import sys, vtprune.study.executors.processes, vtprune.study.store, vtprune.study.results;"
        "print([name for name in ('torch', 'transformers', 'pandas', 'pyarrow', 'ray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
