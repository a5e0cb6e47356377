"""What training computes is what the model itself computes, and an answer scored in training is one it generates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.testbed.data import Batch, _dense, _pack, draw, normalise
from training.testbed.families import FAMILIES, Family
from training.testbed.measure import encode
from training.testbed.network import answered, forward
from vtprune.core.task import Sample, Video
from vtprune.testbed.models import load_folder
from vtprune.testbed.sequences import Kind
from vtprune.testbed.tasks import Testbed
from vtprune.testbed.vocabulary import EOS, INDEX, WORDS

KINDS: tuple[Kind, ...] = ("image", "pair", "video")


def task_of(folder: Path, kind: Kind) -> Testbed:
    frames = "images" if kind == "video" and folder.name == "nano" else "native"
    return Testbed(variant=kind, frames=frames, questions=5)  # type: ignore[arg-type]


def drawn(folder: Path, kind: Kind) -> tuple[list[Sample], Batch]:
    """The questions of one scene as samples of the task, and packed as in training."""
    task = task_of(folder, kind)
    scenes, visuals, questions = task._draw(2)
    samples = [Sample(str(n), (*visuals, q.text), (" ".join(q.answer),)) for n, q in enumerate(questions)]
    shots = []
    for visual in samples[0].visuals:
        shots += visual.frames if isinstance(visual, Video) else [visual, visual]
    frames = np.stack([np.asarray(shot) for shot in shots])
    frames = frames.reshape(-1, 2, *frames.shape[1:])
    return samples, Batch(normalise(frames), *_pack([questions]), [questions], *_dense(scenes))


def trained(folder: Path) -> tuple[Family, PreTrainedModel]:
    """The family and its model as training holds it, with the attention of training, and the weights of the folder."""
    family = FAMILIES[folder.name]
    model = family.build()
    model.load_state_dict(load_folder(folder)[0].state_dict())
    return family, model.eval()


def questions_of(logits: Tensor, batch: Batch) -> list[Tensor]:
    """The logits of each question of the first prompt: `[word, vocabulary]`."""
    return [logits[0][batch.segment[0] == number] for number in range(len(batch.questions[0]))]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_questions_have_the_logits_of_separate_prompts(folder: Path, kind: Kind) -> None:
    """Tokens, pixels, positions and masks of the processor and the model agree with those of training."""
    model, processor = load_folder(folder)
    family, training = trained(folder)
    samples, batch = drawn(folder, kind)
    packed = questions_of(forward(family, training, batch, kind).logits, batch)
    for sample, question, expected in zip(samples, batch.questions[0], packed, strict=True):
        inputs = encode(processor, [sample])
        count = len(question.words)
        said = torch.tensor([[INDEX[word] for word in question.answer]])
        ids = torch.cat([inputs.pop("input_ids"), said], 1)
        inputs["attention_mask"] = torch.ones_like(ids)
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(said)], 1)
        logits = model(input_ids=ids, **inputs).logits[0, -count - said.shape[1] :]
        assert torch.allclose(logits, expected, atol=2e-4), (logits - expected).abs().max()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_first_word_generated_is_the_one_predicted_in_training(folder: Path, kind: Kind) -> None:
    """Here in a padded batch."""
    model, processor = load_folder(folder)
    family, training = trained(folder)
    samples, batch = drawn(folder, kind)
    packed = questions_of(forward(family, training, batch, kind).logits, batch)
    inputs = encode(processor, samples)
    assert not inputs["attention_mask"].all(), "the prompts should differ in length"
    made = model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
    last = [logits[len(asked.words) - 1] for logits, asked in zip(packed, batch.questions[0], strict=True)]
    assert torch.allclose(made.logits[0], torch.stack(last), atol=2e-4)
    assert made.sequences[:, -1].tolist() == [int(logits.argmax()) for logits in last]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_those_of_training(folder: Path, kind: Kind) -> None:
    model, processor = load_folder(folder)
    samples, batch = drawn(folder, kind)
    layout = FAMILIES[folder.name].prompt(model, kind)
    for sample, question in zip(samples, batch.questions[0], strict=True):
        inputs = encode(processor, [sample])
        words = [INDEX[word] for word in question.words]
        assert inputs["input_ids"][0].tolist() == [*layout.ids.tolist(), *words]
        vision = (inputs["input_ids"][0][:, None] == torch.tensor(processor_vision_ids(processor))).any(1)
        assert torch.equal(vision[: len(layout.ids)], layout.is_image)


def processor_vision_ids(processor: object) -> list[int]:
    return [getattr(processor, name) for name in ("image_token_id", "video_token_id") if hasattr(processor, name)]


@torch.no_grad()
def test_features_are_those_of_the_model(folder: Path) -> None:
    """The vision forward pass that training writes out, against the model's own."""
    model, processor = load_folder(folder)
    family, training = trained(folder)
    for kind in KINDS:
        samples, batch = drawn(folder, kind)
        given, _, _ = family.see(training, batch.frames, kind)
        inputs = encode(processor, samples[:1])
        if "pixel_values_videos" in inputs:
            found = model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output
        else:
            grid = {"image_grid_thw": inputs["image_grid_thw"]} if "image_grid_thw" in inputs else {}
            found = model.get_image_features(inputs["pixel_values"], **grid).pooler_output
        features = torch.cat([one.reshape(-1, one.shape[-1]) for one in found])
        assert torch.allclose(features, given.reshape(features.shape), atol=1e-4)


@torch.no_grad()
def test_questions_do_not_see_one_another(folder: Path) -> None:
    family, training = trained(folder)
    _, batch = drawn(folder, "image")
    whole = questions_of(forward(family, training, batch, "image").logits, batch)
    for number, question in enumerate(batch.questions[0]):
        alone = Batch(batch.frames, *_pack([[question]]), [[question]], batch.digit, batch.color, batch.pairs)
        logits = forward(family, training, alone, "image").logits[0]
        assert torch.allclose(logits, whole[number], atol=1e-4)


@torch.no_grad()
def test_keeping_every_token_is_no_dropping(folder: Path) -> None:
    family, training = trained(folder)
    _, batch = drawn(folder, "pair")
    keep = torch.ones(1, len(family.prompt(training, "pair").ids), dtype=torch.bool)
    whole, kept = (forward(family, training, batch, "pair", chosen).logits for chosen in (None, keep))
    assert torch.equal(whole, kept)
    keep[0, 5:90] = False
    assert not torch.allclose(whole, forward(family, training, batch, "pair", keep).logits, atol=1e-3)


def test_an_answer_counts_if_every_word_and_the_end_are_right() -> None:
    batch = draw(np.random.default_rng(0), "image", 3, 6)
    logits = torch.nn.functional.one_hot(batch.labels.clamp_min(0), len(WORDS)).float()
    assert answered(logits, batch) == [[True] * 6] * 3
    end = int((batch.labels[1] == INDEX[EOS]).nonzero()[2])
    logits[1, end] = 0
    assert answered(logits, batch) == [[True] * 6, [True, True, False, True, True, True], [True] * 6]


def test_training_sees_no_held_out_digit() -> None:
    """A batch for training and one for evaluation from the same random numbers show different pictures."""
    train, test = (draw(np.random.default_rng(0), "image", 2, 1, split=split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert torch.equal(train.digit < 10, test.digit < 10)
    assert not torch.equal(train.frames, test.frames)
