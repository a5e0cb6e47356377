"""The dialogue mode: two turns with an image each on one cache, held against the same two turns under nested masks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

import vtprune
from vtprune.core.report import Report
from vtprune.testing.models.tiny import Inputs, Tiny
from vtprune.verify import plays
from vtprune.verify.compare import EFFECT, Disagreement, Seen, check_agree, check_identical, effect, tolerance_of
from vtprune.verify.masks import acted, reference
from vtprune.verify.outcome import Upstream, let_refusals_through, sentence
from vtprune.verify.prompts import SHORT, NotApplicable
from vtprune.verify.subjects import Subject

STEPS = 8


class Turns(NamedTuple):
    """Both turns of a dialogue: what each gave, and the logical length of the cache between them."""

    one: Seen
    two: Seen
    past: int


def check(tiny: Tiny, subject: Subject) -> None:
    """Raise Disagreement, Upstream, or what vtprune raises, unless the second turn is right as well as the first."""
    model, recipe = tiny.model, subject.recipe(tiny.model)
    first, second = tiny.make_inputs((1,), text=SHORT), tiny.make_inputs((2,), seed=5, text=SHORT)
    try:
        plain = talk(model, first, second)
        whole = one_prompt(first, plain.one, second)
    except NotApplicable:
        raise
    except Exception as error:
        with vtprune.prune(model, recipe):
            let_refusals_through(lambda: talk(model, first, second))
        raise Upstream(sentence(error, named=True)) from error
    try:
        at_once = plays.generate(model, whole, STEPS)
        what = "transformers' second turn, against one prompt with both turns"
        check_agree(plain.two, at_once, what, tolerance=tolerance_of(model))
    except Exception as error:
        raise Upstream(sentence(error, named=not isinstance(error, Disagreement))) from error
    if subject.keep is not None:
        with vtprune.prune(model, {"stages": subject.stages_that_keep_all(model)}):
            same = talk(model, first, second)
        check_identical(same.one, plain.one, "keeping everything, first turn")
        check_identical(same.two, plain.two, "keeping everything, second turn")
    with vtprune.prune(model, recipe) as run:
        pruned = talk(model, first, second)
    reports = run.reports
    if len(reports) != 2:
        raise Disagreement(f"two turns with an image made {len(reports)} reports")
    for report in reports:
        acted(report, everything=False)
    masked = under_masks(model, first, second, reports)
    check_agree(pruned.one, masked.one, "first turn, against the masked reference", tolerance=tolerance_of(model))
    check_agree(pruned.two, masked.two, "second turn, against the masked reference", tolerance=tolerance_of(model))
    if not effect(pruned.two, plain.two, None) > EFFECT:
        if getattr(model.config.get_text_config(), "sliding_window", None):
            raise NotApplicable(
                "what is removed here does not show in the second turn: a sliding window hides it anyway"
            )
        raise Disagreement("removal changed nothing in the second turn")


def talk(model: Any, first: Inputs, second: Inputs) -> Turns:
    """Generate after the first prompt, and after the second one with the cache of the first."""
    cache = DynamicCache(config=model.config.get_text_config())
    one = plays.generate(model, {**first, "past_key_values": cache}, STEPS)
    past = cache.get_seq_length()
    return Turns(one, plays.generate(model, continued(first, one, second, cache), STEPS), past)


def continued(first: Inputs, one: Seen, second: Inputs, cache: Any) -> dict[str, Any]:
    """The arguments of the second turn: all token ids so far, but only the new images, and the cache."""
    joined = one_prompt(first, one, second)
    shape = second["input_ids"].shape
    images = {name: tensor for name, tensor in second.items() if tensor.shape != shape}
    return {**joined, **images, "past_key_values": cache}


def one_prompt(first: Mapping[str, Tensor], one: Seen, second: Mapping[str, Tensor]) -> Inputs:
    """Both turns as one prompt, the reply between them."""
    assert one.tokens is not None
    reply = {"input_ids": one.tokens, "attention_mask": torch.ones_like(one.tokens)}
    joined: Inputs = {}
    for name, tensor in second.items():
        if tensor.shape == second["input_ids"].shape:
            between = reply.get(name, torch.zeros_like(one.tokens)).to(tensor.dtype)
            joined[name] = torch.cat([first[name], between, tensor], 1)
        else:
            if first[name].shape[1:] != tensor.shape[1:]:
                raise NotApplicable("the images of two turns have other shapes, and cannot be put into one prompt here")
            joined[name] = torch.cat([first[name], tensor])
    return joined


def under_masks(model: Any, first: Inputs, second: Inputs, reports: list[Report]) -> Turns:
    """The dialogue of the masked reference: the second turn sees neither what it nor what the first one removed."""
    with ExitStack() as masks:
        width = first["input_ids"].shape[1]
        masks.enter_context(reference(model, reports[0], width))
        cache = DynamicCache(config=model.config.get_text_config())
        one = plays.generate(model, {**first, "past_key_values": cache}, STEPS)
        past = cache.get_seq_length()
        arguments = continued(first, one, second, cache)
        masks.enter_context(reference(model, reports[1], arguments["input_ids"].shape[1], past))
        return Turns(one, plays.generate(model, arguments, STEPS), past)
