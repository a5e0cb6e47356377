from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.study.fake import register_fake
from vtprune.core.errors import UnknownNameError
from vtprune.studies import shipped
from vtprune.study.cell import ModelRef
from vtprune.study.file import StudyError, StudyFile, load_study

SMALL = {"name": "small", "models": ["a/b"], "tasks": ["fake"], "recipes": ["fastv"]}
RANDOM = {"stages": [{"site": "projector.output", "scorer": "random", "budget": 0.5}]}


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)


def problems(**changes: object) -> tuple[str, ...]:
    with pytest.raises(StudyError) as caught:
        StudyFile.parse({**SMALL, **changes})
    return caught.value.problems


def test_defaults_are_filled_in_and_survive_a_round_trip_through_json() -> None:
    study = StudyFile.parse(SMALL)
    assert study.models == (ModelRef("a/b"),)
    assert study.recipes[0].label == "fastv"
    assert (study.seeds, study.limit, study.compare_to, study.baselines.without) == ((0,), None, "random", ())
    assert StudyFile.parse(json.loads(json.dumps(study.to_dict()))) == study


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_studies_load_round_trip_and_say_what_they_show(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert shipped()[name] == study.description != ""
    assert not study.baselines.without
    assert StudyFile.parse(json.loads(json.dumps(study.to_dict()))) == study


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        models=[{"id": "a/b", "dtyp": "float32"}, {"dtype": "float8"}],
        tasks=["faek"],
        recipes=["fastw", {"recipe": "fastv", "lable": "x"}, {"recipe": "fastv", "set": {"stages.3.budget": 0.5}}],
        seeds=[],
        axes={"budget": []},
        limit=0,
        batchsize=3,
    )
    text = "\n".join(found)
    for wanted in (
        "models[0]: unknown field 'dtyp'. Did you mean 'dtype'",
        "models[1]: a model is a name or a mapping with 'id'",
        "models[1]: unknown dtype 'float8'",
        "tasks[0]: unknown task 'faek'. Did you mean 'fake'",
        "recipes[0]: unknown recipe 'fastw'. Did you mean 'fastv'",
        "recipes[1]: unknown field 'lable'. Did you mean 'label'",
        "recipes[2]: fastv: override 'stages.3.budget'",
        "seeds: Tuple should have at least 1 item",
        "axes.budget: Tuple should have at least 1 item",
        "limit: Input should be greater than or equal to 1",
        "the study: unknown field 'batchsize'. Did you mean 'batch_size'",
    ):
        assert wanted in text, text
    assert len(found) == 11


def test_models_paths_axes_and_labels_are_reported_beside_other_faults(tmp_path: Path) -> None:
    found = problems(
        models=["testbed/nanno", str(tmp_path / "gone"), {"id": "a/b", "device": "gpu"}, "a/b"],
        tasks=["fake", {"name": "fake", "path": str(tmp_path / "no")}, {"name": "fake", "path": str(tmp_path)}],
        recipes=["fastv", "fastv", {"recipe": "plphp", "controls": ["repacked"]}, {"recipe": "fastw"}],
        axes={"budgett": [0.5], "budget": [1.5]},
        factorial={"site": "llm.layers[2]", "scorers": ["atention"]},
        limit=0,
    )
    starts = (
        "recipes[3]: unknown recipe 'fastw'",
        "limit: Input should be greater",
        "label 'fastv' is taken by another recipe",
        "axes: unknown axis 'budgett'. Did you mean 'budget'",
        "recipes 'fastv', 'plphp' with budget=1.5: stages[0].budget: budget 1.5 is above 1",
        "factorial.scorers: unknown scorer 'atention'. Did you mean 'attention'",
        "model 'testbed/nanno': the testbed has no model 'nanno'. Did you mean 'nano'",
        f"model '{tmp_path}/gone': model directory {tmp_path}/gone does not exist",
        "model 'a/b': unknown device 'gpu'",
        f"task 'fake': path: there is no {tmp_path}/no; the current directory is",
    )
    assert len(found) == len(starts), found
    for said, start in zip(found, starts, strict=True):
        assert said.startswith(start)


def test_what_a_fault_hides_is_not_called_another() -> None:
    lacking = {"label": "x", "recipe": {"stages": [{"site": "projector.output", "scorer": "random"}]}}
    for changes in (
        {"axes": {"budget": 0.5}, "recipes": [lacking]},
        {"axes": [], "recipes": ["fastv"]},
        {"recipes": [{"recipe": "fastv", "lable": "mine"}], "compare_to": "mine"},
        {"baselines": {"without": ["rando"]}, "compare_to": "random"},
    ):
        assert len(problems(**changes)) == 1


def test_a_control_that_a_recipe_cannot_have_is_reported_beside_other_faults() -> None:
    found = problems(recipes=[{"recipe": "plphp", "controls": ["repacked"]}], limit=0)
    assert len(found) == 2
    assert found[1].startswith("recipe 'plphp': control 'repacked'")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"recipes": ["fastv", "fastv"]}, "label 'fastv' is taken by another recipe"),
        ({"recipes": ["random"]}, "label 'random' is taken by a baseline"),
        ({"recipes": [{"recipe": RANDOM}]}, "a recipe written inside the study needs a 'label'"),
        ({"compare_to": "fastvv"}, "compare_to: nothing is labelled 'fastvv'. Did you mean 'fastv'"),
        ({"baselines": {"without": ["random"]}}, "compare_to: nothing is labelled 'random'"),
        ({"baselines": {"without": ["downsampling"]}}, "'full', 'random', 'uniform_grid' or 'downsample'"),
        ({"seeds": [0, 1, 0]}, "0 is listed twice"),
        ({"seeds": 3}, "seeds: expected a list, e.g. [3] (got 3)"),
        ({"models": "testbed/nano"}, "models: expected a list, e.g. [testbed/nano] (got 'testbed/nano')"),
        ({"tasks": {"name": "fake", "length": 3}}, "tasks: expected a list, e.g. [{name: fake, length: 3}] (got {"),
        ({"models": ModelRef("a/b")}, "models: expected a list, e.g. [ModelRef(id='a/b', "),
        ({"axes": {"budget": 0.5}}, "axes.budget: expected a list, e.g. [0.5]"),
        (
            {"recipes": [{"recipe": "fastv", "controls": "random"}]},
            "recipes[0].controls: expected a list, e.g. [random]",
        ),
        ({"tasks": ["fake", "fake"]}, "listed twice"),
        ({"factorial": {"site": "llm.layer[2]", "scorers": "all"}}, "unknown site 'llm.layer[2]'"),
        ({"recipes": [{"recipe": "fastv", "controls": ["inverse"]}]}, "'inverted'"),
        ({"function-x": 1}, "the study: unknown field 'function-x'."),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"recipes": [{"recipe": "fastv", "label": "factorial"}]}, "'factorial' is that of the cells of a factorial"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, object], wanted: str) -> None:
    assert wanted in "\n".join(problems(**changes))


def test_the_label_random_is_free_without_the_baseline() -> None:
    study = StudyFile.parse({**SMALL, "recipes": ["random"], "baselines": {"without": ["random"]}})
    assert study.recipes[0].label == study.compare_to == "random"


def test_relative_paths_start_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "models" / "mine").mkdir(parents=True)
    (home / "mine.yaml").write_text(yaml.safe_dump({"name": "own", **RANDOM}))
    data = {
        **SMALL,
        "models": ["models/mine", {"id": "./other"}, "llava-hf/llava-1.5-7b-hf", "testbed/nano"],
        "tasks": [{"name": "fake", "path": "pictures"}],
        "recipes": ["mine.yaml", {"recipe": "mine.yaml", "label": "again"}, "fastv"],
    }
    (home / "study.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    study = load_study("home/study.yaml")
    ids = [model.id for model in study.models]
    assert ids == [str(home / "models/mine"), str(home / "other"), "llava-hf/llava-1.5-7b-hf", "testbed/nano"]
    assert study.tasks[0].path == home / "pictures"  # type: ignore[attr-defined]
    assert [entry.label for entry in study.recipes] == ["own", "again", "fastv"]
    assert study.recipes[1].data()["name"] == "own"


def test_a_missing_recipe_is_missed_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**SMALL, "recipes": ["own.yaml"]}))
    with pytest.raises(StudyError) as caught:
        load_study(tmp_path / "study.yaml")
    assert f"recipes[0]: {tmp_path / 'own.yaml'}: no such file" in str(caught.value)


def test_an_unknown_study_and_a_missing_file() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown study 'quickstrat'. Did you mean 'quickstart'"):
        load_study("quickstrat")
    with pytest.raises(StudyError, match="no such file"):
        load_study("quickstart.yaml")
    with pytest.raises(StudyError, match="a study is a mapping"):
        StudyFile.parse(["a"])


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: [")
    with pytest.raises(StudyError, match="not valid YAML"):
        load_study(path)
