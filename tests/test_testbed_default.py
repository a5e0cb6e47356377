"""The embedded default: photographs, tokenizer, processor and a miniature LLaVA with random weights."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)

import vtprune.testbed
from vtprune.testbed import DEFAULT_NOTE, default_prompt, load_default, photo, photos
from vtprune.testbed.default import DEFAULT_QUESTION
from vtprune.testbed.tokenizer import words

VISION_TOKENS = 576
Loaded = tuple[LlavaForConditionalGeneration, LlavaProcessor]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_default()


def encode(processor: LlavaProcessor, *names: str) -> dict[str, Tensor]:
    return dict(processor(images=[photo(name) for name in names], text=default_prompt(len(names)), return_tensors="pt"))


def is_vision(loaded: Loaded, inputs: dict[str, Tensor]) -> Tensor:
    return inputs["input_ids"] == loaded[0].config.image_token_id


def digest(model: PreTrainedModel) -> str:
    state = model.state_dict()
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of the last prompt token of the first sample: `[vocabulary]`."""
    with torch.no_grad():
        return model(**inputs).logits[0, -1]


def test_importing_the_package_does_not_import_torch_or_transformers() -> None:
    code = (
        "import sys, vtprune.testbed as t; dir(t); "
        "print([m for m in ('torch', 'transformers', 'PIL', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves_and_others_are_refused() -> None:
    for name in vtprune.testbed.__all__:
        assert getattr(vtprune.testbed, name) is not None
        assert name in dir(vtprune.testbed)
    with pytest.raises(AttributeError, match="it has DEFAULT_NOTE"):
        _ = vtprune.testbed.load_defaults  # type: ignore[attr-defined]


def test_the_note_says_that_the_weights_are_random() -> None:
    assert "random weights" in DEFAULT_NOTE
    assert "noise" in DEFAULT_NOTE


@pytest.mark.parametrize("name", photos())
def test_a_photograph_is_square_coloured_small_and_credited(name: str) -> None:
    picture = photo(name)
    folder = Path(vtprune.testbed.__file__).parent / "images"
    assert picture.mode == "RGB"
    assert picture.width == picture.height
    assert 300 <= picture.width <= 448
    assert np.asarray(picture).std(axis=(0, 1)).min() > 20
    assert (folder / f"{name}.jpg").stat().st_size < 80_000
    assert f"`{name}.jpg`" in (folder / "README.md").read_text(encoding="utf-8")


def test_photographs_are_listed_and_a_wrong_name_is_answered_with_the_nearest() -> None:
    assert photos() == ["chelsea", "coffee"]
    with pytest.raises(ValueError, match=r"no photograph 'coffe'.*nearest is 'coffee'"):
        photo("coffe")


def test_a_photograph_belongs_to_the_caller() -> None:
    photo().putpixel((0, 0), (1, 2, 3))
    assert photo().getpixel((0, 0)) != (1, 2, 3)


@pytest.mark.parametrize(
    "text", ["What is in the picture?", "USER: a red mug\nWhich zebra? ASSISTANT:", "naïve 日本 🙂  two  spaces ▁"]
)
def test_text_comes_back_as_it_went_in(loaded: Loaded, text: str) -> None:
    tokenizer = loaded[1].tokenizer
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")


def test_listed_words_are_one_token_and_others_are_spelled(loaded: Loaded) -> None:
    tokenizer = loaded[1].tokenizer
    assert tokenizer.tokenize("What is in the picture?") == ["▁What", "▁is", "▁in", "▁the", "▁picture", "?"]
    assert tokenizer.tokenize("the zebra") == ["▁the", "▁", *"zebra"]
    wrong = [word for word in words() if tokenizer.tokenize(word) != [f"▁{word}"]]
    assert wrong == []


def test_padding_is_on_the_left(loaded: Loaded) -> None:
    batch = loaded[1].tokenizer(["the cat", "the cat sits on the red chair"], padding=True, return_tensors="pt")
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][0, 0] == 0
    assert set(batch) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("names", [["chelsea"], ["chelsea", "coffee"]])
def test_each_image_becomes_576_placeholders(loaded: Loaded, names: list[str]) -> None:
    inputs = encode(loaded[1], *names)
    assert is_vision(loaded, inputs).sum() == VISION_TOKENS * len(names)
    assert inputs["pixel_values"].shape == (len(names), 3, 336, 336)
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}


def test_the_placeholders_match_the_features_of_the_tower(loaded: Loaded) -> None:
    model, processor = loaded
    features = model.get_image_features(encode(processor, "chelsea")["pixel_values"], return_dict=True).pooler_output
    assert features[0].shape == (VISION_TOKENS, model.config.text_config.hidden_size)


@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_the_default_prompt_is_what_the_chat_template_writes(loaded: Loaded, n_images: int) -> None:
    content = [{"type": "image"}] * n_images + [{"type": "text", "text": DEFAULT_QUESTION}]
    chat = [{"role": "user", "content": content}]
    assert default_prompt(n_images) == loaded[1].apply_chat_template(chat, add_generation_prompt=True)
    assert default_prompt(n_images).count("<image>") == n_images


def test_a_chat_with_pictures_gives_the_same_inputs_as_the_prompt(loaded: Loaded) -> None:
    content = [
        *({"type": "image", "image": photo(name)} for name in photos()),
        {"type": "text", "text": DEFAULT_QUESTION},
    ]
    chat = [{"role": "user", "content": content}]
    inputs = loaded[1].apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = encode(loaded[1], *photos())
    assert {name: torch.equal(inputs[name], expected[name]) for name in expected} == dict.fromkeys(expected, True)


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="n_images is -1"):
        default_prompt(-1)


def test_it_is_shaped_like_llava_with_grouped_queries(loaded: Loaded) -> None:
    config = loaded[0].config
    text = config.text_config
    assert (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads) == (8, 4, 2)
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert {parameter.dtype for parameter in loaded[0].parameters()} == {torch.float32}


def test_the_weights_do_not_depend_on_the_seed_of_the_user(loaded: Loaded) -> None:
    torch.manual_seed(123)
    first = digest(load_default()[0])
    torch.manual_seed(456)
    assert digest(load_default()[0]) == first == digest(loaded[0])


def test_the_weights_do_not_depend_on_the_default_dtype(loaded: Loaded) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        built = digest(load_default()[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert built == digest(loaded[0])


def test_the_global_random_states_are_untouched() -> None:
    torch.manual_seed(7)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    load_default()
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_generation_runs_to_its_full_length_and_writes_words(loaded: Loaded) -> None:
    model, processor = loaded
    inputs = encode(processor, "chelsea")
    new = model.generate(**inputs, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(new)
    assert len(new) == 16
    assert set(text.split()) <= set(words())
    assert len(set(text.split())) >= 5


def test_the_answer_depends_on_the_photograph(loaded: Loaded) -> None:
    first, second = (logits(loaded[0], encode(loaded[1], name)) for name in photos())
    assert (first - second).abs().max() > 0.1 * first.std()


def test_attention_over_the_image_is_far_from_uniform() -> None:
    """Effective number of attended vision tokens (exponential of the entropy): 576 if uniform."""
    loaded = load_default()
    inputs = encode(loaded[1], "chelsea")
    seen = is_vision(loaded, inputs)[0]
    loaded[0].set_attn_implementation("eager")
    with torch.no_grad():
        attentions = loaded[0](**inputs, output_attentions=True).attentions
    rows = torch.stack([layer[0, :, -1][:, seen] for layer in attentions])  # [layer, head, vision]
    shares = rows / rows.sum(-1, keepdim=True)
    effective = torch.special.entr(shares).sum(-1).exp().mean(-1)
    assert (effective < VISION_TOKENS / 5).sum() >= 4
    assert rows.sum(-1).mean() > 0.5


def test_hiding_half_of_the_vision_tokens_changes_the_logits(loaded: Loaded) -> None:
    model, processor = loaded
    inputs = encode(processor, "chelsea")
    hidden = is_vision(loaded, inputs)[0].nonzero()[::2, 0]
    halved = inputs["attention_mask"].clone()
    halved[0, hidden] = 0
    full = logits(model, inputs)
    assert (full - logits(model, {**inputs, "attention_mask": halved})).abs().max() > 0.5 * full.std()


def test_it_can_be_saved_and_loaded_offline(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, processor = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval()
    reader = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert type(again) is LlavaForConditionalGeneration
    assert type(reader) is LlavaProcessor
    assert digest(again) == digest(model)
    inputs, reread = encode(processor, *photos()), encode(reader, *photos())
    assert {name: torch.equal(inputs[name], reread[name]) for name in inputs} == dict.fromkeys(inputs, True)
    assert reader.chat_template == processor.chat_template
    expected = model.generate(**inputs, max_new_tokens=4)
    assert torch.equal(again.generate(**reread, max_new_tokens=4), expected)
    assert reader.tokenizer.decode(expected[0, -4:]) == processor.tokenizer.decode(expected[0, -4:])
