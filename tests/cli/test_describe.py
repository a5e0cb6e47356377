from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field
from typer.testing import CliRunner

from vtprune.cli import app
from vtprune.cli.describe import split_header
from vtprune.cli.parameters import Parameter, documentation, parameters_of, type_text
from vtprune.core.component import Scorer
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
        assert "needs: " in out
        assert "revision: " in out


def test_a_component_in_detail() -> None:
    _, out, _ = run("attention")
    assert "gqa_reduction: 'mean' | 'max', default \"mean\"" in out
    assert "needs: attention(query=last) (with default parameters)" in out
    assert "granularity: token" in out


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
