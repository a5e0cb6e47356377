from __future__ import annotations

import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field
from typer.testing import CliRunner

from tests.cli.conftest import Install
from tests.cli.test_plugins import BROKEN
from tests.core.conftest import WritePlugin
from vtprune.cli import app
from vtprune.cli.describe import split_header
from vtprune.cli.parameters import Parameter, parameters_of, type_text
from vtprune.core.component import Scorer
from vtprune.core.documentation import documentation
from vtprune.core.plugins import registry
from vtprune.core.spec import ScorerSpec


class Base(Scorer):
    """Prose of the base.

    other: from the base.
    """

    other: ScorerSpec | None = None

    def score(self, signals):
        raise NotImplementedError


class Sample(Base):
    """First line.

    More prose: this colon is no parameter.

    size: how many
        tokens to take.
    low, high: the bounds. mode: a or b.

    Last line.
    """

    size: int = Field(3, ge=1, lt=9)
    low: float
    high: float = Field(1.0, description="from the field")
    mode: Literal["a", "b"] | None = None


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["describe", *arguments], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("entry", list(registry().entries()), ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_everything_registered_can_be_described(entry) -> None:
    code, out, err = run(entry.name)
    assert (code, err) == (0, "")
    assert f"{entry.kind} {entry.name}: " in out
    assert f"from {entry.origin} {entry.version} ({entry.target})" in " ".join(out.split())
    if entry.kind not in ("adapter", "recipe"):
        for name in registry().load(entry.kind, entry.name).model_fields:
            assert f"  {name}: " in out
        assert ("needs: " in out) == (entry.kind != "task")
        assert "revision: " in out


def test_a_component_in_detail() -> None:
    _, out, _ = run("attention")
    assert "gqa_reduction: 'mean' | 'max', default \"mean\"" in out
    assert "needs: attention(query=last) (with default parameters)" in out
    assert "granularity: token" in out


def test_what_depends_on_parameters_is_shown_with_its_expression() -> None:
    _, out, _ = run("attention")
    assert "\ngranularity: token (with default parameters)\n  in general: 'head' if head_reduction == 'none'" in out
    _, out, _ = run("union")
    assert "\nneeds a budget: depends on parameters: first.needs_count or second.needs_count\n" in out


@pytest.mark.parametrize("name", ["key_norm", "top_k", "llava", "plphp"])
def test_what_live_tells_the_source_tells_too(name: str) -> None:
    read, live = run(name)[1].splitlines(), run(name, "--live")[1].splitlines()
    missing = [line for line in live if line not in read]
    assert missing in ([], ["needs: keys (with default parameters)", "granularity: token"])


def test_live_tells_what_the_source_does_not() -> None:
    _, out, _ = run("attention", "--live")
    assert "needs: attention(query=last) (with default parameters)" in out
    assert "in general" not in out


PLUGIN = """
from vtprune.plugin import hookimpl
@hookimpl
def vtprune_register(registrar):
    for name in ("Whole", "Made", "Wrong", "Half"):
        registrar.add("scorer", name.lower(), f"cli_parts:{name}", summary="one of four", paper="arXiv 1")
    registrar.add("scorer", "gone", "cli_parts_gone:Thing", summary="its module is gone")
    registrar.add("recipe", "file", "cli_parts:no.yaml", summary="its file is gone")
"""
PARTS = """
from vtprune.plugin import Scorer, Selector
raise RuntimeError("describing must not import this")

class Whole(Scorer):
    '''A paragraph
    of two lines.

    - a list
    - of two
    '''
    size: int = 3
    expected_failures = {"inputs_are_not_mutated": "works in place, to save memory"}

Made = make(Scorer)

class Wrong(Selector): pass

class Half(somewhere.Base, Scorer): pass
"""


class TestThirdParties:
    @pytest.fixture(autouse=True)
    def _installed(self, install: Install, write_plugin: WritePlugin) -> None:
        write_plugin("cli_parts", PARTS)
        install(write_plugin("cli_plugin", PLUGIN), write_plugin("cli_broken", BROKEN, dist="acme-broken"))

    def test_nothing_is_imported(self) -> None:
        code, out, err = run("acme/whole")
        assert (code, err) == (0, "")
        assert "scorer acme/whole: one of four\nfrom acme 1.2 (cli_parts:Whole), paper arXiv 1\n" in out
        assert "\nA paragraph of two lines.\n\n- a list\n- of two\n" in out
        assert "  size: int, default 3" in out
        assert "conformance: not checked" in out
        assert " ".join(out.split("conformance suite:")[1].split()) == (
            "inputs_are_not_mutated works in place, to save memory"
        )
        assert "cli_parts" not in sys.modules

    def test_live_imports_it(self) -> None:
        code, _, err = run("acme/whole", "--live")
        assert code == 1
        assert "cannot be loaded from cli_parts:Whole: RuntimeError: describing must not import this" in err

    @pytest.mark.parametrize(
        ("name", "reason"), [("made", "but make(Scorer)"), ("gone", "there is no module 'cli_parts_gone'")]
    )
    def test_what_cannot_be_read_points_to_live(self, name: str, reason: str) -> None:
        code, out, _ = run(f"acme/{name}")
        words = " ".join(out.split())
        assert code == 0
        assert "The source does not tell more: " in words
        assert reason in words
        assert words.endswith(f"vtprune describe acme/{name} --live")

    def test_a_class_of_another_kind_is_noticed(self) -> None:
        assert "registered as a scorer, but its class is selector" in run("acme/wrong")[2]

    def test_a_base_that_cannot_be_read_is_named(self) -> None:
        _, out, err = run("acme/half")
        assert "granularity: token" in out
        assert "also inherits from somewhere.Base, whose source was not read" in err

    def test_a_recipe_whose_file_is_gone(self) -> None:
        code, _, err = run("acme/file")
        assert code == 1
        assert "recipe acme/file of acme 1.2 cannot be read: cli_parts is a module" in err

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("whole", "acme/whole"), ("Acme/whole", "acme/whole"), ("vtprune/attention", "attention")],
    )
    def test_a_name_in_another_form(self, name: str, meant: str) -> None:
        code, out, err = run(name)
        assert (code, out) == (2, "")
        assert err == f"error: nothing is registered as '{name}'. Did you mean '{meant}'?\n"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("acme-broken/entropy", "failed: RuntimeError: out of cheese. `vtprune plugins` shows more."),
            ("acme/entropy", "acme 1.2 is installed and active, but it registers no such name."),
            ("acme-far/entropy", "the distribution 'acme-far', of which no plugin is installed here"),
        ],
    )
    def test_a_name_that_is_not_there(self, name: str, reason: str) -> None:
        code, _, err = run(name)
        assert code == 2
        assert reason in err


def test_a_recipe_shows_its_header_and_its_yaml() -> None:
    _, out, _ = run("fastv")
    assert "arXiv 2403.06764" in out
    assert "stages:" in out
    assert "# " not in out


def test_an_adapter_shows_what_it_provides() -> None:
    _, out, _ = run("llava")
    assert "LlavaForConditionalGeneration" in out
    assert "vision_attention" in out


def test_a_name_of_two_kinds_shows_both() -> None:
    _, out, _ = run("random")
    assert "scorer random: " in out
    assert "recipe random: " in out


def test_an_unknown_name_gives_the_nearest_one_and_exit_code_2() -> None:
    code, out, err = run("atention")
    assert code == 2
    assert not out
    assert "nothing is registered as 'atention'. Did you mean 'attention'" in err
    assert "Traceback" not in err


def test_documentation_is_taken_apart() -> None:
    prose, meanings = documentation(Sample)
    assert prose.split("\n\n") == ["First line.", "More prose: this colon is no parameter.", "Last line."]
    assert meanings == {
        "size": "how many tokens to take.",
        "low": "the bounds.",
        "high": "the bounds.",
        "mode": "a or b.",
        "other": "from the base.",
    }


def test_parameters_have_type_bounds_default_and_meaning() -> None:
    found = {parameter.name: parameter for parameter in parameters_of(Sample, documentation(Sample)[1])}
    assert found["size"] == Parameter("size", "int, >= 1, < 9", "default 3", "how many tokens to take.")
    assert found["low"] == Parameter("low", "float", "required", "the bounds.")
    assert found["high"].meaning == "from the field"
    assert found["mode"].type == "'a' | 'b' | null"
    assert (found["other"].type, found["other"].default) == ("scorer | null", "default null")


def test_types_in_words() -> None:
    assert type_text(tuple[int, ...]) == "tuple of int"
    assert type_text(dict[str, float]) == "dict of str, float"
    assert type_text(Annotated[int | str, "x"]) == "int | str"


@pytest.mark.parametrize(
    ("text", "comment", "body"),
    [
        ("# One.\n#   two\n\nname: x # y\n", "One.\n  two", "name: x # y"),
        ("name: x\n# later\n", "", "name: x\n# later"),
        ("# only\n", "only", ""),
    ],
)
def test_header(text: str, comment: str, body: str) -> None:
    assert split_header(text) == (comment, body)
