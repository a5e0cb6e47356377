"""The folders of models: they load with transformers, and those that are shipped are what their cards say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from training.testbed.measure import measure
from vtprune import testbed
from vtprune.core.errors import LoadError, UnknownNameError
from vtprune.testbed.models import WEIGHTS, load_folder
from vtprune.testbed.tasks import GENERATOR, Testbed
from vtprune.testbed.vocabulary import WORDS

SHIPPED = ["mrope", "nano"]


def test_a_folder_loads_with_transformers_alone(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.do_sample is False
    assert model.config.text_config.vocab_size == len(WORDS)
    if folder.name == "nano":
        processor = AutoProcessor.from_pretrained(folder)
        assert isinstance(processor, LlavaProcessor)
        turn = [{"type": "text", "text": "first"}, {"type": "image"}, {"type": "text", "text": "what ?"}]
        assert processor.apply_chat_template([{"role": "user", "content": turn}]) == "first <image> what ?"


def test_loading(folder: Path) -> None:
    model, processor = load_folder(folder)
    assert (model.dtype, model.training, model.device.type) == (torch.float32, False, "cpu")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(processor.image_token, str)
    assert processor.tokenizer.convert_ids_to_tokens(range(len(WORDS))) == list(WORDS)
    assert load_folder(folder, torch.bfloat16)[0].dtype == torch.bfloat16


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"no model 'nanno'\..*Known:"):
        testbed.load("nanno")


def test_loading_by_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a `Path`, as a string with a separator, and relative; a bare word is the name of a shipped model."""
    expected = load_folder(folder)[0].state_dict()
    monkeypatch.chdir(folder.parent)
    for where in (folder, str(folder), f"./{folder.name}", Path(folder.name)):
        model, processor = testbed.load(where)
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items()), where
        assert isinstance(processor.image_token, str)
    shipped, _ = testbed.load(folder.name)
    assert not torch.equal(shipped.lm_head.weight, expected["lm_head.weight"])


def test_a_folder_that_holds_no_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match=r"absent does not exist; the current directory is"):
        testbed.load(tmp_path / "absent")
    with pytest.raises(LoadError, match=r"config\.json, .* missing; expected a folder that training"):
        testbed.load(tmp_path)
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(LoadError, match="folder of a training run"):
        testbed.load(str(tmp_path))
    with pytest.raises(LoadError, match="is a file, not a folder"):
        testbed.load(tmp_path / "checkpoint.pt")
    with pytest.raises(LoadError, match=f"the model is in .*{folder.name}$"):
        testbed.load(folder.parent)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"loaded as '\./mine'"):
        testbed.load("mine")


def test_what_is_shipped() -> None:
    assert testbed.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_tells_the_truth(name: str) -> None:
    folder = WEIGHTS / name
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == metrics["sha256"]
    assert len(weights) == metrics["bytes"] < 8_000_000
    assert metrics["generator"] == GENERATOR
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert metrics["sha256"] in card
    assert "CC BY 4.0" in card
    model, _ = testbed.load(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == metrics["parameters"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_few_questions_are_answered_as_well_as_the_card_says(name: str) -> None:
    metrics = json.loads((WEIGHTS / name / "metrics.json").read_text(encoding="utf-8"))
    found = measure(*testbed.load(name), Testbed(level="easy", scenes=12, seed=metrics["evaluation_seed"]))["all"]
    published = metrics["runs"]["image/easy"]["all"]["accuracy"]
    assert found["low"] - 0.02 <= published <= found["high"] + 0.02
