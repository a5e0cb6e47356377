"""M-RoPE over a dialogue of two turns: positions, rope deltas and logits are those of the unpruned model under masks.

The first turn brings an image and a video, the second another image. transformers does not work out the second turn's
positions from its new tokens alone, so they are passed, as get_rope_index gives them for both turns in one prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

import vtprune
from tests.adapters.packed import tiny
from tests.exactness.helpers import POWER, TOLERANCE, Stages, distance, masks_of
from vtprune.core.report import Report
from vtprune.testing.models import Inputs
from vtprune.testing.reference import MaskedReference

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
STEPS = 6
STAGES: dict[str, Stages] = {
    "projector": [{"site": "projector.output", "scorer": "random", "budget": 0.4}],
    "layer": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.3}],
    "kv": [{"site": "llm.layers[1:3].kv", "scorer": {"name": "attention", "head_reduction": "none"}, "budget": 0.3}],
}
TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids")


class Turns(NamedTuple):
    """Logits of both prefills and every step; rotary positions of every forward; rope deltas after the first turn."""

    logits: list[Tensor]
    tokens: list[Tensor]
    positions: list[Tensor]
    deltas: Tensor


def turns(name: str) -> tuple[Inputs, Inputs]:
    first = tiny(name).make_inputs((1,), videos=(1,), seed=1)
    return first, tiny(name).make_inputs((1,), seed=5)


@contextmanager
def positions_of(model: Any, found: list[Tensor]) -> Iterator[None]:
    """The rotary positions of every forward of the text model."""

    def note(module: Any, args: Any, kwargs: Any) -> None:
        found.append(args[1] if len(args) > 1 else kwargs["position_ids"])

    handle = model.model.language_model.rotary_emb.register_forward_pre_hook(note, with_kwargs=True)
    yield
    handle.remove()


def whole_of(first: Inputs, reply: Tensor, second: Inputs) -> Inputs:
    """Both turns as one prompt."""
    between = {
        "input_ids": reply,
        "attention_mask": torch.ones_like(reply),
        "mm_token_type_ids": torch.zeros_like(reply),
    }
    joined = {name: torch.cat([first[name], between[name], second[name]], 1) for name in TOKENS}
    rest = [name for name in first.keys() | second.keys() if name not in TOKENS]
    return joined | {name: torch.cat([turn[name] for turn in (first, second) if name in turn]) for name in rest}


def rope(model: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Positions ``[3, batch, token]`` and rope deltas ``[batch, 1]``, worked out from all token ids."""
    names = (*TOKENS, "image_grid_thw", "video_grid_thw")
    return model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})


@torch.no_grad()
def talk(model: Any, first: Inputs, second: Inputs, between: Callable[[int, int], None] | None = None) -> Turns:
    """Generate after the first prompt; then the second prompt on the same cache, and greedy steps by hand.

    between: called with the cached length and the total, before the second turn.
    """
    cache, positions, logits = DynamicCache(), [], []
    with positions_of(model, positions):
        out = model.generate(
            **first,
            past_key_values=cache,
            max_new_tokens=STEPS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        deltas = model.model.rope_deltas.clone()
        logits += list(out.logits)
        reply = out.sequences[:, first["input_ids"].shape[1] :]
        whole, past = whole_of(first, reply, second), cache.get_seq_length()
        if between is not None:
            between(past, whole["input_ids"].shape[1])
        rotary, _ = rope(model, whole)
        mask, at = whole["attention_mask"], rotary.amax((0, 2)) + 1
        new = {name: second[name] for name in second if name not in TOKENS}
        step = model(
            input_ids=whole["input_ids"][:, past:],
            attention_mask=mask,
            position_ids=rotary[:, :, past:],
            past_key_values=cache,
            **new,
        )
        tokens = [reply]
        for _ in range(STEPS):
            logits.append(step.logits[:, -1])
            tokens.append(logits[-1].argmax(-1, keepdim=True))
            mask = torch.cat([mask, torch.ones_like(tokens[-1])], 1)
            step = model(
                input_ids=tokens[-1],
                attention_mask=mask,
                position_ids=at.view(1, -1, 1).expand(3, -1, -1),
                past_key_values=cache,
            )
            at = at + 1
        logits.append(step.logits[:, -1])
    return Turns(logits, tokens, positions, deltas)


def under_masks(model: Any, reports: list[Report], first: Inputs, second: Inputs) -> Turns:
    """The same dialogue of the unpruned model, from which masks hide what the reports say was dropped."""
    with ExitStack() as stack:
        stack.enter_context(MaskedReference(model, *masks_of(reports[0], first["input_ids"].shape[1])))

        def hide_second(past: int, total: int) -> None:
            maps = masks_of(reports[1], total - past)
            wide = [{layer: pad(mask, (past, 0), value=True) for layer, mask in masks.items()} for masks in maps]
            stack.enter_context(MaskedReference(model, *wide))

        return talk(model, first, second, hide_second)


@pytest.mark.parametrize("attn", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", STAGES)
def test_positions_deltas_and_logits_over_two_turns(name: str, attn: str, stages: str) -> None:
    model = tiny(name, attn).model
    first, second = turns(name)
    with vtprune.prune(model, {"stages": STAGES[stages]}) as run:
        pruned = talk(model, first, second)
    assert [[s.kind for s in report.layouts[0].segments] for report in run.reports] == [["image", "video"], ["image"]]
    masked = under_masks(model, run.reports, first, second)
    for one, other in zip(pruned.logits, masked.logits, strict=True):
        assert distance(one, other) < TOLERANCE
    assert torch.equal(torch.cat(pruned.tokens, 1), torch.cat(masked.tokens, 1))
    assert torch.equal(pruned.deltas, rope(model, first)[1])
    assert torch.equal(pruned.deltas, masked.deltas)
    assert len(pruned.positions) == len(masked.positions) == 2 * STEPS + 1
    for one, other in zip(pruned.positions, masked.positions, strict=True):
        assert torch.equal(one, other)
    unpruned = talk(model, first, second)
    assert distance(pruned.logits[STEPS], unpruned.logits[STEPS]) > POWER


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", STAGES)
def test_a_second_turn_of_text_goes_on_with_the_rope_deltas(name: str, stages: str) -> None:
    """`generate` derives the second turn's positions from the cache's length, which stays the logical one."""
    model, first = tiny(name).model, turns(name)[0]
    question = torch.tensor([[5, 6, 7, 8]])
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}

    def both_turns() -> tuple[list[Tensor], list[Tensor]]:
        cache, positions = DynamicCache(), []
        with positions_of(model, positions):
            one = model.generate(**first, past_key_values=cache, **settings)
            ids = torch.cat([one.sequences, question], 1)
            mask = torch.ones_like(ids)
            two = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **settings)
        return [*one.logits, *two.logits], positions

    with vtprune.prune(model, {"stages": STAGES[stages]}) as run:
        logits, positions = both_turns()
    (report,) = run.reports
    with MaskedReference(model, *masks_of(report, first["input_ids"].shape[1])):
        expected, unhooked = both_turns()
    for one, other in zip(logits, expected, strict=True):
        assert distance(one, other) < TOLERANCE
    for one, other in zip(positions, unhooked, strict=True):
        assert torch.equal(one, other)
    _, deltas = rope(model, first)
    start = first["input_ids"].shape[1] + STEPS + question.shape[1]
    assert int(positions[-1].amax()) == start + STEPS - 2 + int(deltas)
