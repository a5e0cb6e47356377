"""What came in: vision tokens, padding, where the prompt ends, and numbers made from a sample's content."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import vtprune
from tests.robustness.scenes import DROP, Callback, recipe
from vtprune.core.engine.flow import Flow
from vtprune.core.engine.prompt import Prompt
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.lookup import locate
from vtprune.core.signals import Need, Signals
from vtprune.testing.models import IMAGE, VIDEO, Inputs, Tiny, tiny_llava, tiny_qwen2_5_vl

FAMILIES = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl}


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return FAMILIES[request.param]()


def prompt_of(tiny: Tiny) -> Prompt:
    return Prompt(locate(tiny.model))


# -- generate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["input_ids", "inputs", "positional", "inputs_embeds"])
def test_the_size_of_the_prompt_is_known_while_generate_runs(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_llava.__wrapped__(layers=1)
    prompt, seen = prompt_of(tiny), []
    monkeypatch.setitem(
        tiny.model.__dict__, "generate", lambda *args, **kwargs: seen.append((prompt.copies(6), prompt.end(9)))
    )
    ids = torch.ones(2, 5, dtype=torch.int64)
    started: list[int] = []
    with prompt.watching_generate(lambda: started.append(1)):
        if how == "positional":
            tiny.model.generate(ids)
        else:
            tiny.model.generate(**{how: ids if how != "inputs_embeds" else torch.ones(2, 5, 8)})
        assert (prompt.copies(6), prompt.end(9)) == (1, 9), "outside of generate a prompt ends where its tokens end"
    assert seen == [(3, 5)]
    assert started == [1]


def test_a_batch_that_is_no_multiple_has_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_llava.__wrapped__(layers=1)
    prompt, seen = prompt_of(tiny), []
    monkeypatch.setitem(
        tiny.model.__dict__, "generate", lambda *a, **k: seen.append([prompt.copies(n) for n in (2, 3, 4)])
    )
    with prompt.watching_generate(lambda: None):
        tiny.model.generate(input_ids=torch.ones(2, 5, dtype=torch.int64))
    assert seen == [[1, 1, 2]]


def test_an_error_inside_generate_ends_the_prompt(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompt_of(tiny)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setitem(tiny.model.__dict__, "generate", broken)
    with prompt.watching_generate(lambda: None), pytest.raises(RuntimeError, match="broken"):
        tiny.model.generate(torch.ones(1, 3, dtype=torch.int64))
    assert prompt.end(9) == 9
    assert tiny.model.__dict__["generate"] is broken


@pytest.mark.parametrize("option", ["prefill_chunk_size", "cache_implementation"])
def test_options_are_read_wherever_they_stand(option: str) -> None:
    tiny = tiny_llava()
    prompt, value = prompt_of(tiny), {"prefill_chunk_size": 8, "cache_implementation": "static"}[option]
    config = GenerationConfig(**{option: value})
    ids = torch.ones(1, 3, dtype=torch.int64)
    for args, kwargs in (((ids,), {option: value}), ((ids,), {"generation_config": config}), ((ids, config), {})):
        with pytest.raises(UnsupportedModeError, match=option):
            prompt._size_of(tiny.model, args, kwargs)
    assert prompt._size_of(tiny.model, (ids,), {"generation_config": config, option: None}) == (1, 3)
    assert prompt._size_of(tiny.model, (ids,), {"cache_implementation": "dynamic"}) == (1, 3)


# -- the base model ----------------------------------------------------------------------------------------------------


def test_vision_tokens_are_found_by_id_or_by_embedding(tiny: Tiny) -> None:
    prompt, inputs = prompt_of(tiny), tiny.make_inputs((1, 2))
    ids = inputs["input_ids"]
    prompt.base_starts(tiny.model.base_model, (), {"input_ids": ids, "attention_mask": inputs["attention_mask"]})
    by_id, nothing = prompt.modalities(), torch.zeros_like(ids, dtype=torch.bool)
    assert torch.equal(by_id["image"], ids == IMAGE)
    assert torch.equal(prompt.real(nothing), inputs["attention_mask"].bool())
    prompt.base_starts(tiny.model.base_model, (), {"inputs_embeds": tiny.model.get_input_embeddings()(ids)})
    by_embedding = prompt.modalities()
    assert by_id.keys() == by_embedding.keys()
    assert all(torch.equal(by_id[kind], by_embedding[kind]) for kind in by_id)
    assert prompt.real(nothing).all()
    assert ("video" in by_id) is tiny.name.startswith("qwen")


def test_images_and_videos_are_kept_apart() -> None:
    tiny = tiny_qwen2_5_vl()
    inputs = tiny.make_inputs((2,), grids=[(1, 4, 8), (2, 4, 4)])
    ids = inputs["input_ids"].clone()
    video = (ids[0] == IMAGE).nonzero()[8:, 0]
    ids[0, video] = VIDEO
    split = 1 * 4 * 8
    call = {
        "input_ids": ids,
        "attention_mask": inputs["attention_mask"],
        "pixel_values": inputs["pixel_values"][:split],
        "image_grid_thw": inputs["image_grid_thw"][:1],
        "pixel_values_videos": inputs["pixel_values"][split:],
        "video_grid_thw": inputs["image_grid_thw"][1:],
        "mm_token_type_ids": (ids == IMAGE) + 2 * (ids == VIDEO).long(),
    }
    with vtprune.prune(tiny.model, recipe(DROP)) as run, torch.no_grad():
        tiny.model(**call)
    (layout,) = run.report.layouts
    assert [(segment.kind, segment.grid, len(segment)) for segment in layout.segments] == [
        ("image", (1, 2, 4), 8),
        ("video", (2, 2, 2), 8),
    ]
    assert torch.equal(layout.positions, ((ids == IMAGE) | (ids == VIDEO))[0].nonzero()[:, 0])


# -- seeds -------------------------------------------------------------------------------------------------------------


def seeds(tiny: Tiny, inputs: Inputs) -> list[int]:
    seen: dict[int, int] = {}

    def score(signals: Signals) -> torch.Tensor:
        for layout, seed in zip(signals.layouts, signals.sample_seeds().tolist(), strict=True):
            seen[id(layout)] = seed
        return signals.alive.float()

    with vtprune.prune(tiny.model, recipe({**DROP, "scorer": Callback(reads=(Need("sample_seed"),), of=score)})) as run:
        tiny.model(**inputs)
    return [seen[id(layout)] for layout in run.report.layouts if layout.vision]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_seed_depends_on_the_sample_alone(tiny: Tiny, side: str) -> None:
    images = (1, 2, 1)
    together = seeds(tiny, tiny.make_inputs(images, side=side))
    alone = [seeds(tiny, tiny.make_inputs((count,), seed=sample))[0] for sample, count in enumerate(images)]
    assert together == alone
    assert len(set(together)) == 3


@pytest.mark.parametrize("what", ["input_ids", "pixel_values"])
def test_a_seed_depends_on_text_and_pixels(tiny: Tiny, what: str) -> None:
    inputs = tiny.make_inputs((1,))
    changed = {**inputs, what: inputs[what].clone()}
    changed[what].view(-1)[-1] += 1
    assert seeds(tiny, inputs) != seeds(tiny, changed)


def test_drafts_do_not_change_a_seed(tiny: Tiny) -> None:
    prompt, inputs = prompt_of(tiny), tiny.make_inputs((1,))
    seen = []
    for extra in (0, 3):
        ids = torch.cat([inputs["input_ids"], torch.full((1, extra), 9)], 1)
        prompt.base_starts(tiny.model.base_model, (), {"input_ids": ids})
        prompt._generating = (1, inputs["input_ids"].shape[1])
        length = ids.shape[1]
        order = torch.arange(length)
        real = torch.ones(1, length, dtype=torch.bool)
        flow = Flow(
            1, length, 0, torch.device("cpu"), ids == IMAGE, real, real & (order < prompt.end(length)), (), [[]]
        )
        seen.append(prompt.seeds(flow).tolist())
    assert seen[0] == seen[1]
