from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.study.fake import register_fake, save_default
from tests.study.fakes import FakeWorker, make_rows, make_time
from vtprune.cli import app
from vtprune.cli import study as cli
from vtprune.core.errors import LoadError
from vtprune.studies import shipped
from vtprune.study import executors, report
from vtprune.study.cell import Cell
from vtprune.study.file import StudyFile, load_study
from vtprune.study.store import Claim, Store

HERE = "tests.cli.test_study"
DEEP = {"label": "deep", "recipe": {"stages": [{"site": "llm.layers[20]", "scorer": "attention", "budget": 0.5}]}}


class StopsEarly(FakeWorker):
    """Is interrupted in its third cell, after one chunk."""

    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        self.cells = getattr(self, "cells", 0) + 1
        if self.cells == 3:
            claim.append(make_rows(cell, 0, cell.batch_size), make_time(cell, 0, cell.batch_size))
            raise KeyboardInterrupt
        super().run(cell, claim, progress)


class FailsAtDownsampling(FakeWorker):
    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        if cell.variant.label == "downsample":
            raise RuntimeError("too small")
        super().run(cell, claim, progress)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        register_fake(patch)
        yield save_default(tmp_path_factory.mktemp("model"))


@pytest.fixture
def study(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a study; its cells have four samples in two chunks, and a worker that makes them up."""
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, FakeWorker)

    def make(**changes: Any) -> str:
        data = {
            "name": "mini",
            "models": [str(model)],
            "tasks": ["fake"],
            "recipes": ["fastv"],
            "limit": 4,
            "batch_size": 2,
            "axes": {"budget": [0.5]},
            **changes,
        }
        Path("mini.yaml").write_text(yaml.safe_dump(data))
        return "mini.yaml"

    return make


def use(patch: pytest.MonkeyPatch, worker: type) -> None:
    module = "tests.study.fakes" if worker is FakeWorker else HERE
    execute = partial(executors.base.execute, factory=f"{module}:{worker.__name__}")
    patch.setattr(executors, "execute", execute)


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pictures nor statistics, which take seconds."""

    def write(folder: Path) -> Path:
        page = folder / "report" / "index.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text("a report")
        return page

    monkeypatch.setattr(report, "write_report", write)
    monkeypatch.setattr(cli, "_print_table", lambda folder: None)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["study", *map(str, arguments)], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def plan(*arguments: object) -> dict[str, Any]:
    code, out, _ = run("plan", *arguments, "--json")
    assert code == 0
    data: dict[str, Any] = json.loads(out)
    return data


def test_list_names_the_shipped_studies() -> None:
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in ("quickstart", "published", "factorial"))
    _, out, _ = run("list", "--json")
    assert {entry["name"]: entry["description"] for entry in json.loads(out)} == shipped()


@pytest.mark.parametrize("name", sorted(shipped()))
def test_show_prints_a_study_that_can_be_copied_and_says_where_it_lies(name: str) -> None:
    code, out, err = run("show", name)
    assert code == 0
    lies = Path(err.removeprefix("note: ").rstrip("\n"))
    assert lies.read_text() == out
    assert StudyFile.parse(yaml.safe_load(out)) == load_study(name)


def test_show_knows_only_shipped_studies_and_help_speaks_of_it() -> None:
    code, out, err = run("show", "quickstrat")
    assert (code, out) == (2, "")
    assert "unknown study 'quickstrat'. Did you mean 'quickstart'" in err
    assert "vtprune study show quickstart" in " ".join(run("--help")[1].replace("│", "").split())


def test_describe_sends_a_study_to_show() -> None:
    result = CliRunner().invoke(app, ["describe", "quickstart"])
    assert result.exit_code == 2
    assert "'quickstart' is a study, not a component; `vtprune study show quickstart` prints its file" in result.stderr


def test_plan_counts_and_estimates_before_anything_ran(study: Callable[..., str]) -> None:
    data = plan(study(recipes=["fastv", DEEP]))
    assert (len(data["cells"]), data["samples"], data["folder"]) == (5, 20, "runs/mini")
    assert (data["done"], data["partial"], data["missing"], data["failed"]) == (0, 0, 5, 0)
    assert data["flops"] > 1e9
    assert data["seconds"] is None
    assert [refusal["what"] for refusal in data["refused"]] == ["deep"]
    assert not Path("runs").exists()


def test_plan_for_people(study: Callable[..., str]) -> None:
    code, out, _ = run("plan", study(recipes=["fastv", DEEP], seeds=[0, 1]))
    assert code == 0
    assert "6 cells in runs/mini: 0 done, 0 begun, 6 missing, 0 failed" in out
    assert "GFLOP; time not known until a cell of every model has run" in out
    assert "deep: stages[0]: llm.layers[20]: layer 20 is out of range" in " ".join(out.split())
    assert ["in", "all", "5", "6", "24"] in [line.split() for line in out.splitlines()]


def test_run_leaves_results_and_a_report_and_has_nothing_to_do_the_second_time(study: Callable[..., str]) -> None:
    path = study()
    code, out, err = run("run", path)
    assert code == 0, err
    assert "fastv" in out
    assert "[5/5] fastv budget=0.5" in err
    page = Path(out.splitlines()[-1].removeprefix("report: "))
    assert page.is_file()
    assert page.is_relative_to("runs/mini")
    data = plan(path)
    assert (data["done"], data["missing"], data["flops"]) == (5, 0, 0)
    assert "nothing is left to run" in run("plan", path)[1]
    before = page.stat().st_mtime_ns
    note = "note: results were made with vtprune 0.0 (task fake revision 1); installed here is vtprune 0.1.0\n"
    assert run("report", "runs/mini") == (0, f"report: {page}\n", note)
    assert page.stat().st_mtime_ns > before


@pytest.mark.usefixtures("plain_report")
def test_options_reach_the_study(study: Callable[..., str]) -> None:
    code, _, err = run("run", study(), "--out", "elsewhere", "--limit", 2, "--quiet")
    assert (code, err) == (0, "")
    assert {cell.limit for cell in Store("elsewhere").cells()} == {2}


@pytest.mark.usefixtures("plain_report")
def test_a_failed_cell_stops_nothing_and_is_named_at_the_end(
    study: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FailsAtDownsampling)
    path = study()
    code, out, err = run("run", path)
    assert code == 1
    assert "report: " in out
    assert "downsample budget=0.5: RuntimeError: too small" in err
    assert "error: 1 of 5 cells failed; tracebacks are in runs/mini/errors" in err
    data = plan(path)
    assert (data["done"], data["failed"]) == (4, 1)


class FailsAlways(FakeWorker):
    def run(self, cell: Cell, claim: Claim, progress: Callable[[int], None]) -> None:
        raise LoadError(f"model {cell.model.id!r} cannot be loaded")


@pytest.mark.usefixtures("plain_report")
def test_an_error_of_many_cells_is_printed_once_as_they_fail_and_once_at_the_end(
    study: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FailsAlways)
    code, _, err = run("run", study(seeds=[0, 1]))
    assert code == 1
    assert err.count("cannot be loaded") == 2
    (last,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert "/ fake / uniform_grid budget=0.5 and 2 more: LoadError: model" in last
    assert "error: 6 of 6 cells failed" in err


@pytest.mark.usefixtures("plain_report")
def test_what_was_asked_for_by_name_and_refused_is_an_error_after_all_else_ran(study: Callable[..., str]) -> None:
    path = study(recipes=["fastv", DEEP])
    code, _, err = run("run", path, "--quiet")
    assert code == 1
    assert "layer 20 is out of range" in err
    assert "error: refused, for the reasons above: deep" in err
    assert plan(path)["done"] == 5


@pytest.mark.usefixtures("plain_report")
def test_combinations_that_a_factorial_cannot_have_are_no_error(study: Callable[..., str]) -> None:
    code, _, err = run("run", study(recipes=[], factorial={"site": "projector.output", "scorers": ["attention"]}))
    assert code == 0
    assert "refused" in err


@pytest.mark.usefixtures("plain_report")
def test_an_interrupted_run_says_how_to_go_on_and_does(
    study: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study()
    with monkeypatch.context() as patch:
        use(patch, StopsEarly)
        code, out, err = run("run", path, "--out", "here")
    assert (code, out) == (130, "")
    assert f"what is answered is kept in here. To go on: vtprune study run {path} --out here" in err
    data = plan(path, "--out", "here")
    assert (data["done"], data["partial"], data["missing"]) == (2, 1, 2)
    assert data["seconds"] is not None
    assert run("run", path, "--out", "here")[0] == 0
    assert plan(path, "--out", "here")["done"] == 5


def test_how_to_go_on_repeats_what_the_run_was_given(
    study: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vtprune.study.run.run_study", interrupted)
    given = ["--out", "my runs", "--executor", "processes", "--limit", "2", "--workers", "3", "--quiet"]
    code, _, err = run("run", path := study(), *given)
    assert code == 130
    again = shlex.split(err.strip().partition("To go on: ")[2])
    assert again == ["vtprune", "study", "run", path, *given]
    _, _, err = run("run", path)
    assert err.endswith(f"To go on: vtprune study run {path}\n")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("plan", "quickstrat"), "unknown study 'quickstrat'. Did you mean 'quickstart'"),
        (("run", "nowhere.yaml"), "no such file"),
        (("report", "."), "no study folder"),
    ],
)
def test_faults_are_said_without_a_traceback(
    arguments: tuple[str, ...], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2 if "unknown" in wanted else 1, "")
    assert err.startswith("error: ")
    assert wanted in err


def test_a_study_in_which_nothing_can_run(study: Callable[..., str]) -> None:
    baselines = {"without": ["full", "random", "uniform_grid", "downsample"]}
    code, _, err = run("run", study(recipes=[DEEP], baselines=baselines, compare_to="deep"))
    assert code == 1
    assert "has no cell that could run" in err
