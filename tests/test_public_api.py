"""What is public changes in sight of everyone, and what is deprecated goes when it was promised to."""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

import vtprune
from vtprune.core.deprecation import Renamed, deprecated, notice, renamed
from vtprune.plugin import Scorer

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "vtprune").rglob("*.py"))
STATED = ("since", "removed_in")


def tool() -> types.ModuleType:
    """tools/public_api.py as a module."""
    spec = importlib.util.spec_from_file_location("public_api", ROOT / "tools" / "public_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


API = tool()


def test_the_public_api_is_what_the_file_says() -> None:
    """Look at the difference, decide by docs/stability.md, then run `python tools/public_api.py`."""
    assert API.text().splitlines() == (ROOT / "tests" / "public_api.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("module", API.MODULES)
def test_every_public_name_is_there_and_said_once(module: str) -> None:
    found = importlib.import_module(module)
    assert len(found.__all__) == len(set(found.__all__))
    for name in found.__all__:
        assert getattr(found, name) is not None
        assert name in dir(found), f"{module}.{name} is not in dir({module})"


def test_the_file_notices_what_others_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter less, another default, a name less and an option less."""
    before = API.text()
    monkeypatch.setattr(vtprune, "observe", lambda model: None)
    assert "observe(model) -> unknown" in API.text()
    monkeypatch.undo()
    monkeypatch.setattr(vtprune, "__all__", [name for name in vtprune.__all__ if name != "prune"])
    changed = set(before.splitlines()) - set(API.text().splitlines())
    assert [line.partition("(")[0] for line in changed] == ["prune"]
    monkeypatch.undo()
    monkeypatch.setattr(Scorer, "granularity", property(Scorer.score))
    assert "  Scorer.granularity -> Literal['token', 'head'] (property)" in set(before.splitlines()) - set(
        API.text().splitlines()
    )


def test_signatures_are_written_as_in_the_source() -> None:
    def function(a: int, /, b: str = "x", *rest: bytes, c: set[int], d: float = 0.5, **more: int) -> list[str]: ...

    def keywords(a: int, *, b: int = 1) -> None: ...

    expected = "(a: int, /, b: str = 'x', *rest: bytes, c: set[int], d: float = 0.5, **more: int) -> list[str]"
    assert API.signature(function) == expected
    assert API.signature(keywords) == "(a: int, *, b: int = 1) -> None"


# -- deprecation ----------------------------------------------------------------------------------------------------


def deprecations(source: str) -> Iterator[tuple[str, int]]:
    """Each ``removed_in`` that a source states, with its line; every one must be a literal, beside ``since``."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        stated = {word.arg: word.value for word in node.keywords if word.arg in STATED}
        if not stated:
            continue
        if all(isinstance(value, ast.Name | ast.Attribute) for value in stated.values()):
            continue  # handed on by vtprune.core.deprecation itself
        assert set(stated) == set(STATED), f"line {node.lineno}: state both of {STATED}"
        value = stated["removed_in"]
        assert isinstance(value, ast.Constant), f"line {node.lineno}: removed_in is no literal"
        yield str(value.value), node.lineno


def overdue(source: str, version: str) -> list[int]:
    """Lines of deprecations whose version of removal has come; a pre-release counts as the release."""
    now = Version(Version(version).base_version)
    return [line for removed_in, line in deprecations(source) if now >= Version(removed_in)]


def test_nothing_is_there_whose_removal_has_come() -> None:
    late = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in overdue(path.read_text(encoding="utf-8"), vtprune.__version__)
    ]
    assert not late, f"to be removed in {vtprune.__version__} or before: {', '.join(late)}"


def test_what_is_overdue_is_found() -> None:
    source = """@deprecated(since="0.3", removed_in="0.4", use="x")
def f(): ...
old = Renamed("a:b", since="0.3", removed_in="0.5.0", use="x")
"""
    assert [overdue(source, version) for version in ("0.3.9", "0.4.0.dev1", "0.4.0", "0.5")] == [[], [1], [1], [1, 3]]
    with pytest.raises(AssertionError, match="no literal"):
        overdue(source.replace('"0.4"', "VERSION"), "0.4")
    with pytest.raises(AssertionError, match="state both"):
        overdue(source.replace('since="0.3", ', ""), "0.4")


@pytest.mark.parametrize("removed_in", ["0.3", "0.3.5", "0.2", "0.4.1"])
def test_a_deprecation_warns_for_one_minor_version_at_least(removed_in: str) -> None:
    with pytest.raises(ValueError, match="one minor version at least"):
        deprecated(since="0.3", removed_in=removed_in, use="something else")(notice)
    assert "0.4" in notice("`f`", since="0.3.2", removed_in="0.4", use="`g`")
    assert "1.0" in notice("`f`", since="0.9", removed_in="1.0", use="`g`")


def test_a_deprecated_function_works_and_warns_where_it_is_called() -> None:
    @deprecated(since="0.3", removed_in="0.4", use="`vtprune.observe`")
    def watch(number: int) -> int:
        """Twice."""
        return 2 * number

    text = r"watch` is deprecated since vtprune 0\.3 and will be removed in 0\.4; use `vtprune\.observe`"
    with pytest.warns(DeprecationWarning, match=text) as caught:
        assert watch(2) == 4
    assert caught[0].filename == __file__
    assert (watch.__name__, watch.__doc__) == ("watch", "Twice.")


def test_a_deprecated_component_works_and_warns() -> None:
    @deprecated(since="0.3", removed_in="0.4", use="`other`")
    class Old(Scorer):
        power: float = 1.0

        def score(self, signals):  # type: ignore[no-untyped-def]
            return signals.features().sum(-1)

    with pytest.warns(DeprecationWarning, match="Old` is deprecated since vtprune 0.3"):
        made = Old(power=2)
    assert (made.power, made.model_dump()) == (2.0, {"power": 2.0})


def test_a_renamed_attribute_is_the_new_one_and_warns_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
from vtprune.core.deprecation import Renamed, renamed
OLD = {"Ranker": Renamed("vtprune.plugin:Scorer", since="0.3", removed_in="0.4", use="`vtprune.plugin.Scorer`")}
def __getattr__(name):
    return renamed(__name__, name, OLD)
"""
    module = types.ModuleType("made_up")
    exec(compile(source, "made_up.py", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "made_up", module)
    with pytest.warns(DeprecationWarning, match=r"`made_up\.Ranker` is deprecated since vtprune 0\.3") as caught:
        found = module.Ranker
    assert found is Scorer
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AttributeError, match="module 'made_up' has no attribute 'Rank'"):
            module.Rank


def test_a_renamed_attribute_keeps_to_the_rule_too() -> None:
    old = {"Ranker": Renamed("vtprune.plugin:Scorer", since="0.3", removed_in="0.3.1", use="`Scorer`")}
    with pytest.raises(ValueError, match="one minor version at least"):
        renamed("made_up", "Ranker", old)
