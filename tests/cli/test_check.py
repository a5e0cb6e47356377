"""``vtprune check``: targets of every form, what is printed, exit codes, the record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vtprune import __version__
from vtprune.cli import app
from vtprune.core.errors import VtpruneError
from vtprune.core.plugins import registry
from vtprune.scorers.attention import Attention
from vtprune.testing.targets import KINDS, chosen, distribution, targets_of

BROKEN = "tests.testing.broken.common"
MATTERS = "every_parameter_matters"
FILE = '''
"""Components in a file."""

from __future__ import annotations

from torch import Tensor

from vtprune.plugin import Need, Scorer, Selector, Signals
from vtprune.selectors.top_k import TopK  # imported, not defined


class Norm(Scorer):
    """Length of the features.

    power: of the length.
    """

    power: float = 2.0

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features")})

    def score(self, signals: Signals) -> Tensor:
        return signals.features().float().norm(dim=-1) ** self.power


class Careless(Norm):
    """The same, with a parameter that nothing reads.

    sharpness: of nothing.
    """

    sharpness: float = 1.0


class Unfinished(Selector):
    """Not a class that could be checked: it has no `select`."""
'''


UNFINISHED = "from vtprune.plugin import Scorer\nclass Mine(Scorer):\n    def scores(self): pass"
FAILING = """
from vtprune.plugin import Need, Scorer


class Late(Scorer):
    \"""Reads what it does not declare.\"""
    def score(self, signals):
        return signals.keys().float().norm(dim=-1).mean(1)


class Nothing(Scorer):
    \"""Returns nothing.\"""
    def score(self, signals):
        signals.alive.float()
"""


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["check", *map(str, arguments)], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_sound_component_is_counted() -> None:
    code, out, err = run("top_k", "drop", "--only", "class_is_documented", "--only", "bounds_hold")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines == [
        "what checks examples passed failed unexpected pass expected failure not applicable",
        "selector top_k 2 1 1 - - - 1",
        "reducer drop 2 1 1 - - - 1",
        "Each check is run on each example; from 'passed' on, such runs are counted.",
    ]


def test_checks_and_examples_are_told_apart() -> None:
    examples = len(Attention.examples())
    _, out, _ = run("attention", "--only", "class_is_documented", "--only", "bounds_hold")
    (numbers,) = re.findall(r"^scorer attention +([\d -]+)$", out, re.MULTILINE)
    checks, seen, *runs = (0 if word == "-" else int(word) for word in numbers.split())
    assert (checks, seen) == (2, examples)
    assert examples > 1
    assert sum(runs) == checks * examples


def test_a_fault_is_told_with_its_cause_and_exit_code_1() -> None:
    code, out, err = run(f"{BROKEN}:Dead", "--only", MATTERS)
    assert (code, err) == (1, "")
    assert f"  FAILED {MATTERS}, Dead()" in out
    assert "    must hold: Every parameter changes something that is recorded" in out
    assert "    sharpness changed nothing on any input" in out
    assert "      likely cause: it is never read" in out


def test_declared_failures_are_told_with_their_reason() -> None:
    code, out, _ = run("tests.testing.test_frame:Declared", "--only", MATTERS)
    assert code == 0
    assert f"  expected failure {MATTERS}, Declared()\n    sharpness is kept for old recipes" in out
    code, out, _ = run("tests.testing.test_frame:Mended", "--only", MATTERS)
    assert code == 1
    assert f"  UNEXPECTED PASS {MATTERS}, Mended()" in out


def test_reasons_of_what_does_not_apply_are_shown_on_request() -> None:
    arguments = ("top_k", "--only", "bounds_hold", "--only", "class_is_documented")
    assert "no parameter has a bound" not in run(*arguments)[1]
    out = run(*arguments, "-v")[1]
    assert "  not applicable bounds_hold, TopK()\n    no parameter has a bound" in out
    assert "  passed class_is_documented, TopK()\n    The class has a docstring of its own" in out


def test_a_file_is_checked_without_being_installed(file: Path) -> None:
    code, out, _ = run(file, "--only", MATTERS)
    assert code == 1
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "mine.py:Norm 1 1 1 - - - -" in rows
    assert "mine.py:Careless 1 1 - 1 - - -" in rows
    assert "Unfinished" not in out
    assert "sharpness changed nothing" in out


def test_a_file_is_imported_under_a_name_of_its_own(file: Path) -> None:
    found = targets_of(str(file))
    assert [target.found.__name__ for target in found] == ["Norm", "Careless"]
    assert found[0].found.__module__.startswith("_vtprune_checked_mine_")
    assert targets_of(str(file))[0].found is found[0].found, "the same content is imported once"
    file.write_text(FILE.replace("Norm", "Length"))
    assert [target.found.__name__ for target in targets_of(str(file))] == ["Length", "Careless"]


def test_a_file_in_a_model(file: Path) -> None:
    code, out, _ = run(file, "--only", "binds_somewhere")
    assert code == 0
    assert [line.split()[1:4] for line in out.splitlines() if "mine.py" in line] == [["1", "1", "1"]] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_of_the_kind",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_the_kind'",
        ),
        ("x = 1", "defines nothing to check: no concrete class derived from Scorer"),
        ("x = 1\ny = 1 / 0", "mine.py:2, in <module>: y = 1 / 0"),
        (UNFINISHED, "and no Adapter; Mine lacks the method 'score' (it has 'scores')"),
        ("from vtprune.adapters.mllama import ADAPTER", "defines nothing to check"),
    ],
)
def test_a_file_that_cannot_be_checked(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    code, out, err = run(file)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "atention",
            "'atention' is neither a registered name nor a distribution that registers any. Did you mean 'attention'",
        ),
        ("vtprun", "Did you mean 'vtprune'"),
        ("nowhere.py", "no such file: nowhere.py"),
        (f"{BROKEN}:Ded", f"{BROKEN} has no 'Ded'. Did you mean 'Dead'"),
        ("no.such.module:Dead", "cannot be imported: ModuleNotFoundError"),
        ("fastv", "'fastv' is a recipe, which has no conformance checks; use `vtprune validate fastv`"),
    ],
)
def test_unknown_names_have_exit_code_2(target: str, message: str) -> None:
    code, out, err = run(target)
    assert (code, out) == (2, "")
    assert message in err


def test_an_unknown_check_has_exit_code_2() -> None:
    code, _, err = run("top_k", "--only", "bounds_hol")
    assert code == 2
    assert "no check 'bounds_hol'. Did you mean 'bounds_hold'" in err


def test_checks_that_concern_nothing_have_exit_code_2() -> None:
    code, _, err = run("top_k", "--only", "adapter_has_a_name_and_a_summary")
    assert code == 2
    assert "none of the checks adapter_has_a_name_and_a_summary concerns selector top_k" in err


def test_nothing_to_check_has_exit_code_2() -> None:
    code, _, err = run()
    assert code == 2
    assert "name a TARGET, or give --all" in err


def test_something_else_is_refused() -> None:
    code, _, err = run(f"{BROKEN}:BROKEN")
    assert code == 1
    assert "no component and no adapter; expected a class derived from Scorer" in err


def test_a_class_that_cannot_be_made_is_a_fault() -> None:
    code, out, _ = run("tests.testing.test_frame:Required", "top_k", "--only", "class_is_documented")
    assert code == 1
    assert "could not be made" in out
    assert "FAILED: ComponentError: Required cannot be made without size; define the classmethod examples()" in out
    assert "selector top_k" in out


def test_debug_shows_where() -> None:
    from vtprune.core.errors import ComponentError

    with pytest.raises(ComponentError):
        CliRunner().invoke(app, ["check", "tests.testing.test_frame:Required", "--debug"], catch_exceptions=False)


def test_json_is_all_that_is_printed() -> None:
    code, out, _ = run("top_k", f"{BROKEN}:Dead", "--only", MATTERS, "--json")
    assert code == 1
    first, second = json.loads(out)
    assert (first["target"], first["kind"], first["name"], first["fault"]) == (
        "selector top_k",
        "selector",
        "top_k",
        None,
    )
    assert first["outcomes"] == [
        {"check": MATTERS, "component": "TopK()", "status": "not applicable", "detail": "it has no parameters"}
    ]
    assert (second["target"], second["name"]) == (f"{BROKEN}:Dead", None)
    assert second["outcomes"][0]["status"] == "failed"


def test_checks_are_listed_and_not_run() -> None:
    code, out, _ = run("--list", "--json")
    assert code == 0
    every = json.loads(out)
    assert {kind for each in every for kind in each["kinds"]} == set(KINDS)
    some = json.loads(run("top_k", "--list", "--fast", "--json")[1])
    assert all("selector" in each["kinds"] and not each["in_model"] for each in some)
    assert {each["name"] for each in some} < {each["name"] for each in every}
    assert "Keeps" not in run(f"{BROKEN}:Dead", "--list")[1]
    assert "class_is_documented" in run("--list", "--only", "class_is_documented")[1]


def test_checks_in_a_model_can_be_left_out() -> None:
    assert set(chosen([], True)) - set(chosen([], False)) >= {"binds_somewhere", "runs_in_bfloat16"}
    assert chosen(["binds_somewhere"], False) == []


def test_a_distribution_is_all_that_it_registered() -> None:
    found = targets_of("vtprune")
    assert found == distribution("vtprune")
    assert {target.kind for target in found} == set(KINDS)
    own = [entry for entry in registry().entries() if entry.kind in KINDS and entry.origin == "vtprune"]
    assert [target.entry for target in found] == own


def test_an_adapter_is_checked_by_its_own_checks() -> None:
    code, out, _ = run("mllama", "--only", "adapter_refuses_with_a_reason", "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["kind"] == "adapter"
    assert [outcome["status"] for outcome in found["outcomes"]] == ["passed"]
    (same,) = json.loads(run("vtprune.adapters.mllama:ADAPTER", "--only", "adapter_refuses_with_a_reason", "--json")[1])
    assert same["outcomes"] == found["outcomes"]


def test_a_class_without_its_method_is_told_what_it_lacks(file: Path) -> None:
    with pytest.raises(VtpruneError, match="Scorer cannot be checked: Scorer lacks the method 'score'"):
        targets_of("vtprune.plugin:Scorer")


def test_one_error_in_many_checks_is_told_once_where_its_author_should_look(file: Path) -> None:
    file.write_text(FAILING)
    code, out, _ = run(file, "--only", "no_state_is_kept", "--only", "declarations_do_not_change")
    assert code == 1
    assert out.count("signal keys was read but never declared") == 1
    assert "mine.py:8, in score: return signals.keys()" in out
    assert "    1 more for the same reason: no_state_is_kept" in out


def test_a_method_that_returns_nothing_is_told_so(file: Path) -> None:
    file.write_text(FAILING)
    _, out, _ = run(file, "--only", "strides_do_not_matter")
    assert out.count("such as None where `return` is missing (docs/contracts/scorer.md)") == 1, "not that of Late"


def test_an_interrupt_shows_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtprune.testing.targets import Target

    whole = Target.run

    def interrupted(self: Target, only: list[str]) -> object:
        if self.title == "reducer drop":
            raise KeyboardInterrupt
        return whole(self, only)

    monkeypatch.setattr(Target, "run", interrupted)
    code, out, err = run("top_k", "drop", "--only", "class_is_documented")
    assert code == 130
    assert "selector top_k" in out
    assert "1 of 2 were checked; nothing was recorded" in err


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"VTPRUNE_DISABLE_PLUGINS": "all"}, "is disabled: VTPRUNE_DISABLE_PLUGINS=all"),
        ({}, "Write 'acme-late': distributions are named in lower case"),
    ],
)
def test_a_distribution_that_is_not_active_is_told_why(
    environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtprune.core.plugins import Plugin
    from vtprune.testing import targets

    state = {"state": "disabled", "reason": "VTPRUNE_DISABLE_PLUGINS=all"} if environment else {}
    monkeypatch.setattr(targets, "plugins", lambda: (Plugin("acme-late", "0.1", "late", "acme_late", **state),))
    for name in ("acme-late",) if environment else ("Acme_Late",):
        code, _, err = run(name)
        assert code == 2
        assert reason in err


# -- the record --------------------------------------------------------------------------------------------------------


def test_a_record_is_written_and_merged(tmp_path: Path) -> None:
    path = tmp_path / "conformance.json"
    code, _, err = run("drop", "--fast", "--record", path)
    assert code == 0
    assert f"note: written to {path}" in err
    assert "`vtprune list` reads " in err
    first = json.loads(path.read_text())
    assert (first["format"], first["vtprune"], list(first["components"])) == (1, __version__, ["reducer drop"])
    drop = first["components"]["reducer drop"]
    assert (drop["revision"], drop["in_model"], drop["failed"]) == (1, False, [])
    assert drop["passed"] > 10
    assert len(drop["source"]) == 64
    assert run("evict_kv", "--fast", "--record", path)[0] == 0
    both = json.loads(path.read_text())["components"]
    assert list(both) == ["reducer drop", "reducer evict_kv"]
    assert both["reducer drop"] == drop


def test_a_record_of_another_version_is_not_merged_into(tmp_path: Path) -> None:
    path = tmp_path / "conformance.json"
    run("drop", "--fast", "--record", path)
    path.write_text(path.read_text().replace(f'"vtprune": "{__version__}"', '"vtprune": "0.0.1"'))
    code, _, err = run("evict_kv", "--fast", "--record", path)
    assert code == 1
    assert "was written with vtprune 0.0.1" in err
    assert run("drop", "--fast", "--record", path)[0] == 0


def test_a_record_needs_every_check_and_a_name(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "conformance.json"
    code, _, err = run("drop", "--only", MATTERS, "--record", path)
    assert (code, "leave --only out" in err) == (2, True)
    code, _, err = run(file, "--fast", "--record", path)
    assert (code, "only what is registered has a record" in err) == (2, True)
    path.write_text("[]")
    code, _, err = run("drop", "--fast", "--record", path)
    assert (code, "it is no conformance record of format 1" in err) == (1, True)


def test_targets_that_hold_nothing_raise(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(VtpruneError, match="defines nothing to check"):
        targets_of(str(empty))
