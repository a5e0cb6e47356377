"""The frame of the suite: outcomes, strict expected failures, names that do not exist, crashes, pytest's view of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.testing.broken.common import Dead, Sound
from vtprune.core.errors import UnknownNameError, VtpruneError
from vtprune.testing import ConformanceError, Outcome, Violation, check, check_component, checks_for, fail
from vtprune.testing import checking as frame
from vtprune.testing.inputs.trials import difference
from vtprune.testing.parametrize import parametrize_with_checks
from vtprune.testing.run import described, instances_of

MATTERS = "every_parameter_matters"


class Declared(Dead):
    """A fault that is declared.

    power: of the length. sharpness: of what, nobody knows.
    """

    expected_failures = {MATTERS: "sharpness is kept for old recipes"}


class Mended(Sound):
    """A fault that is declared, and gone.

    power: of the length.
    """

    expected_failures = {MATTERS: "not yet"}


class Crashing(Sound):
    """Crashes where its needs are asked for.

    power: of the length.
    """

    def needs(self):
        raise ZeroDivisionError("no needs today")


class Required(Sound):
    """Has a parameter without a default, and no examples.

    power: of the length. size: of something.
    """

    size: int


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that a test puts on the list are gone after it."""
    frame.all_checks()
    monkeypatch.setattr(frame, "_CHECKS", dict(frame._CHECKS))


def test_a_passed_check_is_an_outcome() -> None:
    (outcome,) = check_component(Sound, only=["class_is_documented"])
    assert (outcome.status, outcome.detail, outcome.is_fault) == ("passed", "", False)
    assert str(outcome) == "Sound(): class_is_documented: passed: "


def test_a_failure_is_raised_with_all_others() -> None:
    class Worse(Dead):
        pass

    with pytest.raises(ConformanceError) as raised:
        check_component(Worse, only=[MATTERS, "class_is_documented", "component_is_frozen"])
    assert [outcome.check.name for outcome in raised.value.outcomes] == ["class_is_documented", MATTERS]
    assert isinstance(raised.value, AssertionError)
    assert "not conformant (2 problems):" in str(raised.value)
    assert "Worse(): every_parameter_matters: failed: sharpness changed nothing" in str(raised.value)


def test_nothing_is_raised_if_not_wanted() -> None:
    (outcome,) = check_component(Dead, only=[MATTERS], raises=False)
    assert (outcome.status, outcome.is_fault) == ("failed", True)


def test_a_declared_failure_is_expected() -> None:
    (outcome,) = check_component(Declared, only=[MATTERS])
    assert (outcome.status, outcome.is_fault) == ("expected failure", False)
    assert outcome.detail == "sharpness is kept for old recipes"


def test_a_declared_failure_that_passes_is_a_fault() -> None:
    with pytest.raises(ConformanceError, match=r"unexpected pass: declared to fail \(not yet\), but it passes; remove"):
        check_component(Mended, only=[MATTERS])


def test_expected_failures_can_be_given() -> None:
    (outcome,) = check_component(Dead, only=[MATTERS], expected_failures={MATTERS: "known"})
    assert outcome.status == "expected failure"
    with pytest.raises(ConformanceError, match="unexpected pass"):
        check_component(Sound, only=[MATTERS], expected_failures={MATTERS: "known"})


def test_an_expected_failure_of_another_kind_is_an_error() -> None:
    class Elsewhere(Sound):
        """Expects a check of selectors to fail."""

        expected_failures = {"counts_are_exact": "never asked"}

    with pytest.raises(VtpruneError, match="of Elsewhere: no check 'counts_are_exact' of scorers"):
        check_component(Elsewhere)


def test_expected_failures_may_depend_on_the_parameters() -> None:
    class Partly(Dead):
        """Expects to fail where it is blunt."""

        @property
        def expected_failures(self) -> dict[str, str]:
            return {MATTERS: "blunt"} if self.sharpness < 1 else {}

    statuses = [check_component(Partly(sharpness=s), only=[MATTERS], raises=False)[0].status for s in (0.5, 2.0)]
    assert statuses == ["expected failure", "failed"]


def test_an_expected_failure_of_no_check_is_an_error() -> None:
    with pytest.raises(
        VtpruneError, match=r"expected failure of Sound: no check 'every_parameter_maters'. Did you mean '"
    ):
        check_component(Sound, expected_failures={"every_parameter_maters": "a slip"})


def test_an_unknown_check_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no check 'class_is_document'. Did you mean 'class_is_documented'"):
        check_component(Sound, only=["class_is_document"])


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'top_kk' names 0 components. Did you mean 'top_k'"):
        check_component("top_kk")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tests.testing.broken.common:Sond", "AttributeError: .*has no attribute 'Sond'"),
        ("tests.testing.nothing:Sound", "ModuleNotFoundError: No module named 'tests.testing.nothing'"),
    ],
)
def test_a_target_that_cannot_be_imported(target: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        check_component(target)


@pytest.mark.parametrize("target", [3, int, "tests.testing.broken.common:BROKEN"])
def test_what_is_no_component_is_refused(target: object) -> None:
    with pytest.raises(VtpruneError, match="is no component; expected an instance or a subclass of Scorer"):
        check_component(target)


def test_targets_of_every_form_give_the_same_instances() -> None:
    forms = (Sound(), Sound, "tests.testing.broken.common:Sound")
    assert [instances_of(form) for form in forms] == [(Sound(),)] * 3
    assert [type(found).__name__ for found in instances_of("top_k")] == ["TopK"]


def test_a_class_without_examples_says_how_to_give_some() -> None:
    with pytest.raises(
        VtpruneError, match=r"Required cannot be made without size; define the classmethod examples\(\)"
    ):
        check_component(Required)


def test_a_crash_is_a_failure_that_names_the_components_line() -> None:
    (outcome,) = check_component(Crashing, only=["needs_exist"], raises=False)
    assert outcome.status == "failed"
    assert outcome.detail.startswith("raised ZeroDivisionError: no needs today\n  at ")
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "no needs today" in text)
    assert f"test_frame.py:{line}, in needs: raise ZeroDivisionError" in outcome.detail


def test_a_crash_while_asking_whether_a_check_applies_is_a_failure_too() -> None:
    (outcome,) = check_component(Crashing, only=["foreign_hooks_survive"], raises=False)
    assert (outcome.status, outcome.detail.partition("\n")[0]) == ("failed", "raised ZeroDivisionError: no needs today")


def test_a_crash_of_one_check_leaves_the_others() -> None:
    outcomes = check_component(Crashing, only=["needs_exist", "class_is_documented"], raises=False)
    assert {outcome.check.name: outcome.status for outcome in outcomes} == {
        "needs_exist": "failed",
        "class_is_documented": "passed",
    }


@pytest.mark.usefixtures("scratch")
def test_a_check_of_ones_own_is_run_where_it_applies() -> None:
    @check("scorer", applies=lambda scorer: None if scorer.power > 1 else "its power is small")
    def check_power_is_even(scorer: Sound) -> None:
        """The power is even."""
        if scorer.power % 2:
            fail(f"power is {scorer.power}", "an odd power keeps the sign")

    found = [check_component(Sound(power=p), only=["power_is_even"], raises=False)[0] for p in (2.0, 3.0, 1.0)]
    assert [outcome.status for outcome in found] == ["passed", "failed", "not applicable"]
    assert [outcome.detail for outcome in found] == [
        "",
        "power is 3.0\n  likely cause: an odd power keeps the sign",
        "its power is small",
    ]
    assert "power_is_even" in [each.name for each in checks_for("scorer")]
    assert "power_is_even" not in [each.name for each in checks_for("selector")]
    with pytest.raises(Violation, match="power is 3"):
        found[1].check(found[1].component)


@pytest.mark.usefixtures("scratch")
def test_checks_are_named_and_say_what_holds() -> None:
    with pytest.raises(AssertionError, match="must be called check_"):

        @check("scorer")
        def power_is_even(scorer: Sound) -> None:
            """The power is even."""

    with pytest.raises(AssertionError, match="must say what holds"):

        @check("scorer")
        def check_nothing(scorer: Sound) -> None: ...

    with pytest.raises(AssertionError, match="two checks class_is_documented"):

        @check("scorer")
        def check_class_is_documented(scorer: Sound) -> None:
            """It is documented."""


def test_every_check_says_in_one_sentence_what_holds() -> None:
    for name, each in frame.all_checks().items():
        assert each.summary.endswith("."), name
        assert str(each) == name


def test_components_are_described_by_what_is_not_default() -> None:
    assert described(Sound()) == "Sound()"
    assert described(Sound(power=3.0)) == "Sound(power=3.0)"
    assert described(Required(size=2)) == "Required(size=2)"


# -- under pytest ------------------------------------------------------------------------------------------------------


def cases(*targets: object, **options: object) -> list[tuple[str, bool]]:
    """Ids of the generated tests, and whether each is a strict xfail."""
    mark = parametrize_with_checks(*targets, **options)
    assert mark.args[0] == ("component", "check")
    return [(str(case.id), any(m.name == "xfail" and m.kwargs["strict"] for m in case.marks)) for case in mark.args[1]]


def test_each_check_is_a_test_of_its_own() -> None:
    found = cases(Sound(power=3.0), "top_k")
    ids = [name for name, _ in found]
    assert len(set(ids)) == len(ids)
    assert "Sound(power=3.0)-class_is_documented" in ids
    assert "TopK()-class_is_documented" in ids
    assert "Sound(power=3.0)-bounds_hold" in ids
    assert "TopK()-bounds_hold" not in ids, "it does not apply: there is no parameter"
    assert not any(expected for _, expected in found)


def test_expected_failures_are_strict_xfails() -> None:
    assert [name for name, expected in cases(Declared) if expected] == [f"Declared()-{MATTERS}"]
    given = cases(Sound, expected_failures={"needs_exist": "known"})
    assert [name for name, expected in given if expected] == ["Sound()-needs_exist"]


SUITE = f"""
import pytest
from tests.testing.test_frame import Declared, Mended, Crashing
from tests.testing.broken.common import Dead, Sound
from vtprune.testing import parametrize_with_checks

@parametrize_with_checks(Sound, Dead, Declared, Mended, Crashing)
def test_conformance(component, check):
    if check.name in ("{MATTERS}", "needs_exist"):
        check(component)
"""


def test_pytest_shows_what_became_of_each_check(tmp_path: Path) -> None:
    (tmp_path / "test_plugin.py").write_text(SUITE)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", f"{MATTERS} or needs_exist"]
    ran = subprocess.run(
        [*command, f"--rootdir={tmp_path}", "-o", f"pythonpath={root}", str(tmp_path / "test_plugin.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    said = {
        line.split("::test_conformance[")[1].split("]")[0]: line.split(" ")[0]
        for line in ran.stdout.splitlines()
        if "::test_conformance[" in line and line.split(" ")[0] in ("PASSED", "FAILED", "XFAIL")
    }
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert said == {
        f"Sound()-{MATTERS}": "PASSED",
        "Sound()-needs_exist": "PASSED",
        f"Dead()-{MATTERS}": "FAILED",
        "Dead()-needs_exist": "PASSED",
        f"Declared()-{MATTERS}": "XFAIL",
        "Declared()-needs_exist": "PASSED",
        f"Mended()-{MATTERS}": "FAILED",
        "Mended()-needs_exist": "PASSED",
        f"Crashing()-{MATTERS}": "FAILED",
        "Crashing()-needs_exist": "FAILED",
    }
    assert "[XPASS(strict)] not yet" in ran.stdout
    assert "sharpness changed nothing on any input" in ran.stdout


def test_outcomes_know_what_counts() -> None:
    each = frame.all_checks()["class_is_documented"]
    statuses = ("passed", "failed", "not applicable", "expected failure", "unexpected pass")
    faults = [status for status in statuses if Outcome(each, Sound(), status).is_fault]
    assert faults == ["failed", "unexpected pass"]


def test_differences_are_shown_with_the_digits_that_tell_them_apart() -> None:
    import torch

    one, other = torch.tensor([1.35265374]), torch.tensor([1.35265386])
    said = difference({"features": one}, {"features": other})
    assert said is not None
    first, second = said.rpartition(": ")[2].split(" and ")
    assert first != second
    assert (difference({"x": torch.ones(1)}, {"x": torch.zeros(1)}) or "").endswith("1 and 0")
