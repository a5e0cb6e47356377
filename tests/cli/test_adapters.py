"""``vtprune adapters``: listing, inspecting any model from its configuration alone, skeletons."""

from __future__ import annotations

import ast
import json
import runpy
import sys
import warnings
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import LlavaModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MAPPING
from typer.testing import CliRunner, Result

import vtprune
from tests.cli.conftest import Install
from tests.core.conftest import WritePlugin
from vtprune.cli import app
from vtprune.core import lookup
from vtprune.core.plugins import registry
from vtprune.core.registry import Registration, Registry
from vtprune.core.signals import KINDS
from vtprune.testing.models import tiny_llava

IMPORTS = (ast.Import, ast.ImportFrom)
QUICK = ("blip", "florence2", "fuyu", "git", "kosmos-2", "llava", "mllama", "qwen2_5_vl", "t5gemma2", "udop")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["adapters", *words])


def folder_of(config: Any, path: Path) -> str:
    """A folder that holds a configuration and nothing else."""
    config.save_pretrained(path)
    assert [file.name for file in path.iterdir()] == ["config.json"]
    return str(path)


def inspected(*words: str) -> dict[str, Any]:
    result = run("inspect", *words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_list_names_every_adapter_and_its_classes() -> None:
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == registry().names("adapter")
    text = run("list").output
    for row in rows:
        assert row["name"] in text
        assert set(row["architectures"]) == set(registry().load("adapter", row["name"]).architectures)


def test_list_reads_what_it_can_and_leaves_out_what_is_broken(install: Install, write_plugin: WritePlugin) -> None:
    kept = "from vtprune.plugin import Adapter\nraise RuntimeError\nADAPTER = Adapter(name='x', architectures=('A',))\n"
    write_plugin("cli_read", kept)
    write_plugin("cli_gone", "raise RuntimeError('no adapter here')\n")
    hook = "from vtprune.plugin import hookimpl\n@hookimpl\ndef vtprune_register(registrar):\n"
    for name in ("read", "gone"):
        hook += f"    registrar.add('adapter', '{name}', 'cli_{name}:ADAPTER', summary='one')\n"
    install(write_plugin("cli_adapters", hook))
    done = run("list", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["acme/read"]["architectures"] == ["A"]
    assert "acme/gone" not in rows
    assert rows["mllama"]["unsupported"].startswith("its vision tokens never enter")
    assert rows["llava"]["unsupported"] is None
    assert "adapter 'acme/gone' of acme 1.2 cannot be loaded" in done.stderr


@pytest.mark.parametrize("name", ["nano", "testbed/nano"])
def test_a_testbed_model(name: str) -> None:
    found = inspected(name)
    assert (found["adapter"], found["missing"]) == ("llava", [])
    assert found["modules"]["language model"].startswith("language_model: LlamaModel, 8 layers of 4 query heads and 2")
    assert found["sites"]["vision.output"] == "yes"
    assert found["origin"].startswith("llava, from vtprune ")
    text = run("inspect", name).output
    for part in ("can be pruned", "language_model", "llm.layers[i].kv", "layers 0 to 7", "vision_attention"):
        assert part in text


def test_a_configuration_without_weights_and_without_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tiny_llava().model.config, tmp_path / "bare")
    monkeypatch.setattr(lookup, "registry", Registry)
    found = inspected(folder)
    assert found["adapter"] == "recognised:LlavaForConditionalGeneration"
    assert found["origin"] == "recognised by its structure, not verified"
    takes_sizes = "image_sizes" in signature(LlavaModel.get_image_features).parameters
    assert set(found["withheld"]) == {"grid", "vision_attention", *(["sample_seed"] if takes_sizes else [])}
    assert found["sites"]["vision.output"].startswith("no: ")
    assert any("image_sizes" in note for note in found["notes"]) == takes_sizes


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK)) for kind in sorted(MAPPING)]
)
def test_every_class_can_be_inspected(kind: str, tmp_path: Path) -> None:
    """Either it can be pruned, or the reasons are given; never a traceback."""
    try:
        config = CONFIG_MAPPING[kind]()
        folder = folder_of(config, tmp_path / "model")
    except Exception as error:
        pytest.skip(f"transformers makes no default configuration of {kind}: {type(error).__name__}")
    result = run("inspect", folder, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code:
        assert "Traceback" not in result.output
        assert "cannot build a model from this" in result.output or "no configuration of" in result.output
        return
    found = json.loads(result.stdout)
    assert bool(found["adapter"]) != bool(found["missing"])
    if found["adapter"]:
        assert {"language model", "vision tower"} <= found["modules"].keys()
        assert found["sites"]["llm.layers[i]"].startswith("layers 0 to ")
    assert run("inspect", folder).exit_code == 0


def test_cross_attention_is_named_as_the_reason(tmp_path: Path) -> None:
    found = inspected(folder_of(transformers.MllamaConfig(), tmp_path / "mllama"))
    assert found["adapter"] is None
    assert any("cross-attention" in reason for reason in found["missing"])


def test_a_text_model_lists_what_is_missing(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(num_hidden_layers=1, architectures=["LlamaForCausalLM"])
    found = inspected(folder_of(config, tmp_path / "llama"))
    assert found["adapter"] is None
    assert any("get_image_features" in reason for reason in found["missing"])
    assert any("vision tower" in reason for reason in found["missing"])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("./nowhere", "model directory ./nowhere does not exist"),
        ("no/such-model", "no configuration of 'no/such-model' can be read; likely causes: the id is wrong"),
    ],
)
def test_what_cannot_be_read(name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise OSError("We couldn't connect")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    result = run("inspect", name)
    assert result.exit_code == 1
    assert part in result.output
    assert "Traceback" not in result.output


def test_an_unknown_model_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}', encoding="utf-8")
    result = run("inspect", str(tmp_path))
    assert result.exit_code == 1
    assert "holds no config.json of a model that this transformers knows" in result.output


# -- skeletons ---------------------------------------------------------------------------------------------------------


def test_a_skeleton_is_never_overwritten_without_force(tmp_path: Path) -> None:
    file = tmp_path / "adapter.py"
    file.write_text("mine = 1\n", encoding="utf-8")
    result = run("inspect", "nano", "--skeleton", str(file))
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert file.read_text(encoding="utf-8") == "mine = 1\n"
    assert run("inspect", "nano", "--skeleton", str(file), "--force").exit_code == 0
    assert "ADAPTER = Adapter(" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", ["nano", "mllama"])
def test_a_skeleton_imports_what_is_public(model: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter.py"
    if model == "mllama":
        model = folder_of(transformers.MllamaConfig(), tmp_path / model)
    assert run("inspect", model, "--skeleton", str(file)).exit_code == 0
    imported = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, IMPORTS)]
    of_vtprune = {line for node in imported if "vtprune" in (line := ast.unparse(node))}
    assert of_vtprune == {"from vtprune.plugin import Adapter, recognised_images"}


def test_a_skeleton_provides_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "adapter.py"
    assert run("inspect", "nano", "--skeleton", str(file)).exit_code == 0
    takes_sizes = "image_sizes" in signature(LlavaModel.get_image_features).parameters
    unknown = {"grid", "vision_attention", *(["sample_seed"] if takes_sizes else [])}
    assert runpy.run_path(str(file))["ADAPTER"].provides == frozenset(KINDS) - unknown


def test_a_skeleton_of_a_recognised_model_works_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "adapter.py"
    assert run("inspect", "nano", "--skeleton", str(file)).exit_code == 0
    adapter = runpy.run_path(str(file))["ADAPTER"]
    book = Registry()
    book.add(Registration("adapter", adapter.name, "skeleton:ADAPTER", adapter.summary, None, "acme", "1.0"))
    monkeypatch.setitem(sys.modules, "skeleton", SimpleNamespace(ADAPTER=adapter))
    monkeypatch.setattr(lookup, "registry", lambda: book)
    tiny = tiny_llava()
    stage = {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.5}
    with torch.no_grad(), vtprune.prune(tiny.model, {"stages": [stage]}) as run_:
        tiny.model(**tiny.make_inputs((1, 2)))
    assert not adapter.recognised
    assert run_.report.vision_tokens == [[16, 8, 8, 8], [32, 16, 16, 16]]


@pytest.mark.parametrize("config", [transformers.MllamaConfig, transformers.FuyuConfig])
def test_a_skeleton_of_what_was_not_recognised_says_what_to_find(config: Any, tmp_path: Path) -> None:
    file = tmp_path / "adapter.py"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = folder_of(config(), tmp_path / "model")
    assert run("inspect", folder, "--skeleton", str(file)).exit_code == 0
    text = file.read_text(encoding="utf-8")
    assert "- missing: " in text
    assert "not found" in text.lower()
    assert runpy.run_path(str(file))["ADAPTER"].placeholders is not None
