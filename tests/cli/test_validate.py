from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vtprune.cli import app
from vtprune.core.recipe import Recipe

BAD = """
name: bad
stages:
  - {site: "llm.layers[2]", scorer: atention, budget: 0.5}
  - {site: somewhere, scorer: random, budget: 3.5}
colour: red
"""


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_valid_file_prints_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("name: good\nstages:\n  - {site: projector.output, scorer: random, budget: 0.5}\n")
    code, out, err = run(path)
    assert (code, err) == (0, "")
    assert f"{path} is valid: 'good', 1 stage\n" in out
    assert f"hash {Recipe.load(path).hash}" in out


def test_a_name_works_too() -> None:
    code, out, _ = run("fastv")
    assert code == 0
    assert Recipe.load("fastv").hash in out


def test_every_problem_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    code, out, err = run(path)
    assert code == 1
    assert not out
    for problem in ("Did you mean 'attention'", "unknown site 'somewhere'", "budget 3.5", "unknown field 'colour'"):
        assert problem in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"\xff\xfe\x00", "error: "), (b"a: [", "not valid YAML"), (b"", "a recipe is a mapping")],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run(path)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


STUDY = "name: x\nmodels: [testbed/nano]\ntasks: [testbed]\nrecipes: [fastv]\n"


@pytest.mark.parametrize("name", ["study.yaml", "quickstart"])
def test_a_study_is_sent_to_the_command_for_studies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    code, out, err = run(name)
    assert (code, out) == (2, "")
    assert err == f"error: {name} looks like a study, not a recipe; use `vtprune study plan {name}`\n"


@pytest.mark.parametrize("text", ["models: [a]\n", f"{STUDY}stages: []\n", "[models, tasks]\n"])
def test_what_is_no_study_keeps_its_own_problems(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    code, _, err = run(path)
    assert code == 1
    assert "looks like a study" not in err
    assert "stages" in err


def test_debug_lets_the_error_through(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(tmp_path / "none.yaml"), "--debug"])
    assert type(result.exception).__name__ == "RecipeError"
