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
from vtprune.core.errors import UnknownNameError
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
