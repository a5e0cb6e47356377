"""What is crossed; and a slice of the matrix: every family, one sample, three sites."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.verify import stranger
from vtprune.testing.models.families import VARIANTS
from vtprune.verify.cells import ATTENTIONS, Cell, crossed, verify
from vtprune.verify.external import load
from vtprune.verify.folders import SHIPPED, file_name
from vtprune.verify.ledger import Ledger, read
from vtprune.verify.modes import MODES, parts
from vtprune.verify.run import families, note, plan, run
from vtprune.verify.subjects import METHODS, SITES, SUBJECTS, UnknownVerificationError, uneven

SLICE = ("projector.output", "llm.layers[1]", "llm.layers[1:3].kv")
HERE = [name for name, variant in VARIANTS.items() if variant.available]


@pytest.mark.parametrize("variant", HERE)
def test_one_sample_of_every_family(variant: str) -> None:
    outcomes = {site: verify(Cell(variant, "sdpa", "single", site)) for site in SLICE}
    assert not {site: str(outcome) for site, outcome in outcomes.items() if outcome.status == "fail"}
    path = SHIPPED / file_name(version("transformers"))
    if path.is_file():
        stored = read(path)
        recorded = {site: stored.outcome(Cell(variant, "sdpa", "single", site)) for site in SLICE}
        assert {site: was for site, was in recorded.items() if was not in (None, outcomes[site])} == {}


def test_every_mode_is_tried_where_tokens_drop_and_where_they_are_evicted() -> None:
    pairs = crossed(modes=tuple(MODES))
    for site in ("llm.layers[1]", "llm.layers[1:3].kv"):
        assert {mode for mode, subject in pairs if subject == site} == set(MODES)
    for site in SITES:
        assert {"single", "padded", "several_images"} <= {mode for mode, subject in pairs if subject == site.name}
    for method in METHODS:
        assert [mode for mode, subject in pairs if subject == method.name] == ["padded"]
    assert len(pairs) == len(set(pairs))


def test_eager_attention_meets_every_site_and_prompt() -> None:
    pairs = crossed(attention="eager")
    assert {mode for mode, _ in pairs} == {name for name, mode in MODES.items() if mode.group == "prompts"}
    assert {subject for _, subject in pairs} == set(SUBJECTS)
    assert set(pairs) < set(crossed())


def test_costly_modes_have_to_be_asked_for() -> None:
    costly = {name for name, mode in MODES.items() if mode.costly}
    assert costly == {"compile", "compiled_before"}
    assert not costly & {mode for mode, _ in crossed()}
    assert {mode for mode, _ in crossed(modes=["compile"])} == {"compile"}


def test_a_selection_is_a_part_of_the_whole() -> None:
    assert crossed(["llm.layers[0].kv"]) == [
        (mode, "llm.layers[0].kv") for mode in ("single", "padded", "several_images")
    ]
    assert crossed(["fastv", "llm.layers[1]"], ["padded", "beams"]) == [
        ("padded", "fastv"),
        ("padded", "llm.layers[1]"),
        ("beams", "llm.layers[1]"),
    ]


def test_every_mode_but_the_dialogue_has_a_prompt_and_a_setting() -> None:
    for mode in set(MODES) - {"dialogue"}:
        prompt, setup = parts(mode)
        assert callable(prompt)
        assert callable(setup)


@pytest.mark.parametrize("heads", [1, 2, 3, 8])
def test_heads_keep_about_half_and_not_equally_much(heads: int) -> None:
    for rising in (True, False):
        found = uneven(heads, rising)
        shares = found if isinstance(found, list) else [found]
        assert len(shares) == heads
        assert sorted(shares, reverse=not rising) == shares
        assert 0.35 < sum(shares) / heads < 0.65
        assert len(set(shares)) == heads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subjects": ["projektor.output"]}, "Did you mean 'projector.output'"),
        ({"modes": ["beam"]}, "Did you mean 'beams'"),
        ({"attentions": ["spda"]}, "'spda' cannot be verified here; expected sdpa or eager"),
        (
            {"subjects": ["fastv"], "modes": ["beams"]},
            "nothing of what was asked for is crossed",
        ),
    ],
)
def test_unknown_names(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UnknownVerificationError, match=message):
        plan(["llava"], **arguments)


def test_families_stand_for_their_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    assert families([]) == HERE
    assert families(["llava", "llava-mistral"]) == ["llava", "llava-mistral"]
    assert families(["llava-mistral"]) == ["llava-mistral"]
    with pytest.raises(UnknownVerificationError, match=r"no family 'lava' has a tiny model\. Did you mean 'llava'"):
        families(["lava"])
    lacking = VARIANTS["llava"].__class__("nova", "NovaForConditionalGeneration", "nova:tiny")
    monkeypatch.setitem(VARIANTS, "nova", lacking)
    assert "nova" not in families([])
    with pytest.raises(UnknownVerificationError, match="has no NovaForConditionalGeneration"):
        families(["nova"])


def test_another_packages_family_brings_its_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = stranger.registered()
    monkeypatch.setattr("vtprune.verify.external.registry", lambda: registry)
    assert families([stranger.NAME, "llava-mistral"]) == [stranger.NAME, "llava-mistral"]
    assert families([]) == HERE
    with pytest.raises(UnknownVerificationError, match=r"no family 'acme/hose'.*Did you mean 'acme/house'"):
        families(["acme/hose"])
    with pytest.raises(UnknownVerificationError, match=r"'acme/bare' names no tiny model.*`tiny`.*--model"):
        families([stranger.BARE])
    (group,) = plan([stranger.NAME], ["projector.output"], ["single"], ["sdpa"])
    ((cell, outcome),) = run([group])
    assert (cell.variant, outcome.status) == (stranger.NAME, "pass")


def test_a_run_is_a_ledger_the_same_in_one_process_and_in_two() -> None:
    groups = plan(["llava", "qwen2_5_vl"], ["llm.layers[1]"], ["single", "static_cache"], ["sdpa"])
    ledgers = []
    for workers in (1, 2):
        made = Ledger(version("transformers"))
        for cell, outcome in run(groups, workers):
            note(made, cell, outcome)
        ledgers.append(made)
    assert ledgers[0].to_json() == ledgers[1].to_json()
    assert {cell for cell, _ in ledgers[0].cells()} == {cell for group in groups for cell in group.cells()}
    block = ledgers[0].blocks["qwen2_5_vl", "sdpa"]
    assert (block.family, block.torch, block.vtprune) == ("qwen2_5_vl", version("torch"), version("vtprune"))


def test_a_tiny_model_that_cannot_be_made_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "broken", VARIANTS["llava"].__class__("llava", "LlavaConfig", "llava:no_such"))
    outcome = verify(Cell("broken", "sdpa", "single", "llm.layers[1]"))
    assert outcome.status == "fail"
    assert outcome.reason.startswith("the tiny model cannot be made: AttributeError")


# -- tiny models of others --------------------------------------------------------------------------------------------


OWN = """
from vtprune.testing.models import tiny_llava

def make(attention):
    return tiny_llava(attention, layers=3)

def nothing():
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else in the current directory."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_tiny_model_of_somebody_else(module: str) -> None:
    target = f"{module}:make"
    (group,) = plan([target], ["projector.output"], ["single"], ["eager"])
    made = Ledger(version("transformers"))
    for cell, outcome in run([group]):
        note(made, cell, outcome)
    assert str(made.outcome(Cell(target, "eager", "single", "projector.output"))) == "pass"
    assert made.blocks[target, "eager"].family == "llava"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("just_a_name", "not of the form module:function"),
        ("no_such_module_at_all:make", "ModuleNotFoundError"),
        ("{module}:mkae", "AttributeError"),
        ("{module}:nothing", "must be a function that takes the attention implementation"),
    ],
)
def test_targets_that_lead_nowhere(module: str, target: str, message: str) -> None:
    with pytest.raises(UnknownVerificationError, match=message):
        load(target.format(module=module))


def test_the_names_are_those_of_sites_and_of_recipes() -> None:
    from vtprune import Recipe
    from vtprune.core.site import Site

    for site in SITES:
        assert Site.parse(site.name).kind == site.kind
    for method in METHODS:
        assert Recipe.load(method.name).name == method.name
    assert set(SUBJECTS) == {one.name for one in (*SITES, *METHODS)}
    assert ATTENTIONS == ("sdpa", "eager")
