"""``vtprune verify``: what it runs, writes, shows and refuses."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vtprune.cli import app
from vtprune.verify import cells, run
from vtprune.verify.cells import Cell
from vtprune.verify.document import section
from vtprune.verify.folders import OWN_VARIABLE, SHIPPED, file_name
from vtprune.verify.ledger import read
from vtprune.verify.outcome import Outcome

INSTALLED = version("transformers")
ONE = ("verify", "--family", "llava-mistral", "--site", "projector.output", "--mode", "single")
CELL = Cell("llava-mistral", "sdpa", "single", "projector.output")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user's own results: empty."""
    monkeypatch.setenv(OWN_VARIABLE, str(tmp_path / "own"))
    return tmp_path / "own"


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_a_run_is_summed_up_and_stored_as_ones_own(own: Path) -> None:
    code, out, err = call(*ONE)
    assert (code, out) == (0, f"transformers {INSTALLED}: 2 pass\n")
    assert err.strip() == f"note: written to {own / file_name(INSTALLED)}"
    ledger = read(own / file_name(INSTALLED))
    assert dict(ledger.cells()) == {CELL._replace(attention=name): Outcome("pass") for name in ("sdpa", "eager")}


def test_a_second_run_is_merged_into_the_first(tmp_path: Path) -> None:
    out = tmp_path / "ledger.json"
    assert call(*ONE, "--attention", "sdpa", "--out", str(out))[0] == 0
    code, printed, _ = call(*ONE[:-1], "static_cache", "--site", "llm.layers[1]", "--out", str(out), "--json")
    assert code == 0
    now = json.loads(printed)["variants"]["llava-mistral"]["sdpa"]["cells"]
    assert set(now) == {"llm.layers[1]"}, "what is printed is what was run"
    assert {cell.mode for cell, _ in read(out).cells()} == {"single", "static_cache"}
    assert CELL in dict(read(out).cells())


def test_a_failure_is_named_and_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "verify", lambda cell: Outcome("fail", "wrong by 1.0"))
    code, out, err = call(*ONE, "--attention", "sdpa")
    assert code == 3
    assert "FAIL llava-mistral sdpa single projector.output: wrong by 1.0" in out
    assert "1 fail" in out
    assert "error: some cells failed; they are listed above" in err


def test_what_was_run_before_an_interruption_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Cell] = []

    def verify(cell: Cell) -> Outcome:
        seen.append(cell)
        if len(seen) == 22:
            raise KeyboardInterrupt
        return Outcome("pass")

    monkeypatch.setattr(run, "verify", verify)
    out = tmp_path / "ledger.json"
    code, _, err = call("verify", "--family", "llava-mistral", "--out", str(out))
    assert code == 130
    assert "interrupted" in err
    assert len(list(read(out).cells())) == 20


def test_nothing_is_run_for_a_file_that_cannot_be_merged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "verify", lambda cell: pytest.fail("a cell was run"))
    damaged, other = tmp_path / "damaged.json", tmp_path / "other.json"
    damaged.write_text("{")
    other.write_text('{"format": 1, "transformers": "5.1.0", "variants": {}}')
    code, _, err = call(*ONE, "--out", str(damaged))
    assert code == 1
    assert "damaged.json is no ledger" in err
    code, _, err = call(*ONE, "--out", str(other))
    assert code == 1
    assert f"a ledger of transformers {INSTALLED} cannot go into 5.1.0's" in err


def test_the_list_says_what_is_crossed_and_runs_nothing(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    monkeypatch.setattr(run, "verify", lambda cell: pytest.fail("a cell was run"))
    code, out, _ = call("verify", "--list", "--family", "llava")
    assert code == 0
    assert "vision.output: single, padded, several_images" in out
    assert "compile: torch.compile (backend eager) inside the with-block (takes minutes; only run where named" in out
    both = len(cells.crossed()) + len(cells.crossed(attention="eager"))
    assert f"{2 * both} cells" in out, "two variants of llava"
    assert not own.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--family", "lava"), "no family 'lava' has a tiny model. Did you mean 'llava'"),
        (("--site", "llm.layer[1]"), "'llm.layer[1]' is not among what is verified. Did you mean 'llm.layers[1]'"),
        (("--mode", "bfloat16"), "'bfloat16' is not a mode of verification."),
        (("--attention", "flash"), "'flash' cannot be verified here; expected sdpa or eager"),
        (("--site", "fastv", "--mode", "beams"), "nothing of what was asked for is crossed"),
        (("--model", "nowhere"), "'nowhere' is not of the form module:function"),
    ],
)
def test_wrong_names(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = call("verify", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    (tmp_path / "own_tiny_for_the_command_line.py").write_text(
        "from vtprune.testing.models import tiny_llava\n\n\ndef make(attention):\n    return tiny_llava(attention)\n"
    )
    monkeypatch.chdir(tmp_path)
    target = "own_tiny_for_the_command_line:make"
    code, _, err = call("verify", "--model", target, "--mode", "single", "--site", "projector.output")
    assert code == 0, err
    assert [cell.variant for cell, _ in read(own / file_name(INSTALLED)).cells()] == [target, target]


def test_a_stored_version_is_shown_without_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "verify", lambda cell: pytest.fail("a cell was run"))
    path = SHIPPED / file_name("5.23.0")
    assert call("verify", "--transformers-version", "5.23.0") == (0, section(read(path)), "")
    assert call("verify", "--transformers-version", "5.23.0", "--json")[1] == path.read_text(encoding="utf-8")
    code, out, err = call("verify", "--transformers-version", "5.99.0")
    assert (code, out) == (1, "")
    assert "nothing was verified with transformers 5.99.0." in err
    assert "5.23.0" in err
