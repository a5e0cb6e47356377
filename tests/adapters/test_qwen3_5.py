"""Qwen3.5: gated delta nets among the attention layers, with M-RoPE.

A recurrence cannot be masked, so the reference here is the unhooked model, layer by layer and one sample at a time, on
a sequence from which the dropped tokens are really absent, with the positions they left behind.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import vtprune
from tests.adapters.packed import BATCHES, prompt, tiny
from tests.exactness.helpers import POWER, TOLERANCE, Generated, Stages, distance, generate, taken
from vtprune.core.report import Report
from vtprune.testing.models import Inputs, vision_mask

STEPS, SEED = 8, 3
ROUNDING = {"qwen3_5": TOLERANCE, "qwen3_5-experts": 10 * TOLERANCE}  # of a row of a batch against the row by itself
PER_HEAD = {"name": "attention", "head_reduction": "none"}
SITES = ("vision.output", "projector.output", "llm.layers[2]", "llm.layers[1].kv")
STAGES: dict[str, Stages] = {
    "projector": [{"site": "projector.output", "scorer": "random", "budget": 0.4}],
    "before_a_delta_net": [{"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3}],
    "behind_a_delta_net": [{"site": "llm.layers[1]", "scorer": "random", "budget": 0.3}],
    "kv": [{"site": "llm.layers[1,3].kv", "scorer": PER_HEAD, "budget": 0.25}],
    "stages": [
        {"site": "vision.output", "selector": "max_min", "budget": 0.7},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.4, "scope": "image"},
        {"site": "llm.layers[1,3].kv", "scorer": PER_HEAD, "budget": 0.2},
    ],
}
CASES = [
    pytest.param(name, attn, marks=[pytest.mark.slow] * (name != "qwen3_5" or attn == "eager"))
    for name in ("qwen3_5", "qwen3_5-experts")
    for attn in ("sdpa", "eager")
]


@cache
def plain(name: str, attn: str) -> Generated:
    return generate(tiny(name, attn).model, prompt(name, "mixed", SEED), STEPS)


class Absent:
    """The decoder run by hand on one sample without padding, as a report says it was pruned.

    embeddings: float ``[1, token, dim]``; rotary: int64 ``[3, 1, token]``, positions of the unpruned prompt.
    """

    def __init__(self, model: Any, embeddings: Tensor, rotary: Tensor, report: Report) -> None:
        self.model, self.text, self.report = model, model.get_decoder(), report
        self.cache = DynamicCache(config=self.text.config)
        self.next = rotary.amax() + 1
        self.prefill = self._through(embeddings, rotary, torch.arange(embeddings.shape[1]))

    def _kept(self, layer: int, is_kv: bool) -> tuple[Tensor, ...] | None:
        """The vision tokens (per KV head) that the last stage of a kind kept at a layer, or None."""
        stages = self.report.recipe.stages
        events = [e for e in self.report.events if e.layer == layer and (stages[e.stage].site.kind == "kv") == is_kv]
        return events[-1].kept if events else None

    def _rows(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Which of the ``tokens``, by their places in the prompt, are text or kept vision tokens."""
        at = self.report.layouts[0].positions
        gone = at[~torch.isin(torch.arange(len(at)), kept)]
        return (~torch.isin(tokens, gone)).nonzero()[:, 0]

    def _through(self, hidden: Tensor, rotary: Tensor, tokens: Tensor | None = None) -> Tensor:
        for index, layer in enumerate(self.text.layers):
            if tokens is not None and (kept := self._kept(index, is_kv=False)) is not None:
                rows = self._rows(tokens, kept[0])
                hidden, rotary, tokens = hidden[:, rows], rotary[:, :, rows], tokens[rows]
            hidden = layer(
                hidden,
                position_embeddings=self.text.rotary_emb(hidden, rotary),
                attention_mask=self._mask(hidden.shape[1]) if hasattr(layer, "self_attn") else None,
                past_key_values=self.cache,
            )
            if tokens is not None and (heads := self._kept(index, is_kv=True)) is not None:
                stored = self.cache.layers[index]
                for name in ("keys", "values"):
                    held = getattr(stored, name)
                    rows = [held[:, head, self._rows(tokens, kept)] for head, kept in enumerate(heads)]
                    setattr(stored, name, torch.stack(rows, 1))
        return self.model.lm_head(self.text.norm(hidden))

    def _mask(self, queries: int) -> Tensor | None:
        """The eager kernel adds a causal mask where sdpa's needs none."""
        if queries == 1 or self.text.config._attn_implementation != "eager":
            return None
        return torch.full((1, 1, queries, queries), torch.finfo(torch.float32).min).triu(1)

    def steps(self, tokens: Tensor) -> Tensor:
        """Logits ``[step, vocabulary]`` that chose the generated ``tokens``."""
        found = [self.prefill[0, -1]]
        for number, token in enumerate(tokens[:-1]):
            embedded = self.text.embed_tokens(token.view(1, 1))
            found.append(self._through(embedded, (self.next + number).expand(3, 1, 1))[0, -1])
        return torch.stack(found)


@torch.no_grad()
def by_hand(model: Any, inputs: Inputs, report: Report, tokens: Tensor) -> Tensor:
    """Logits ``[step, vocabulary]`` of the reference."""
    decoder = model.get_decoder()
    (embeddings,) = taken(decoder, lambda _, kwargs: kwargs["inputs_embeds"], lambda: model(**inputs))
    (rotary,) = taken(decoder.rotary_emb, lambda args, _: args[1], lambda: model(**inputs))
    return Absent(model, embeddings, rotary, report).steps(tokens)


@pytest.mark.parametrize("recipe", STAGES)
@pytest.mark.parametrize(("name", "attn"), CASES)
def test_dropped_tokens_have_never_been_there(name: str, attn: str, recipe: str) -> None:
    model, inputs, unpruned = tiny(name, attn).model, prompt(name, "mixed", SEED), plain(name, attn)
    with vtprune.prune(model, {"stages": STAGES[recipe]}):
        generated = generate(model, inputs, STEPS)
    assert distance(generated.logits, unpruned.logits) > POWER
    images, videos = BATCHES["mixed"]
    assert videos is not None
    for sample, counts in enumerate(zip(images, videos, strict=True)):
        alone = tiny(name).make_inputs((counts[0],), videos=(counts[1],), seed=SEED + sample)
        with vtprune.prune(model, {"stages": STAGES[recipe]}) as run:
            single, report = generate(model, alone, STEPS), run.report
        expected = by_hand(model, alone, report, single.tokens[0])
        assert distance(single.logits[:, 0], expected) < TOLERANCE
        assert torch.equal(generated.tokens[sample], single.tokens[0])
        assert distance(generated.logits[:, sample], expected) < ROUNDING[name]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("name", "attn"), CASES)
def test_keeping_everything_changes_no_bit(name: str, attn: str, site: str) -> None:
    model, inputs = tiny(name, attn).model, prompt(name, "mixed", SEED)
    with vtprune.prune(model, {"stages": [{"site": site, "scorer": "random", "budget": 1.0}]}), torch.no_grad():
        logits, generated = model(**inputs).logits, generate(model, inputs, STEPS)
    with torch.no_grad():
        assert torch.equal(logits, model(**inputs).logits)
    assert torch.equal(generated.logits, plain(name, attn).logits)


@pytest.mark.parametrize("recipe", ["greedyprune", "fastv", "divprune"])
def test_named_recipes_run(recipe: str) -> None:
    """Layer 1 attends, so that FastV finds what it reads."""
    model, inputs = tiny("qwen3_5").model, prompt("qwen3_5", "mixed", SEED)
    with vtprune.prune(model, recipe) as run:
        generated = generate(model, inputs, STEPS)
    assert distance(generated.logits, plain("qwen3_5", "sdpa").logits) > POWER
    assert all(len(event.kept[0]) < int(vision_mask(inputs)[event.sample].sum()) for event in run.report.events)


def test_what_a_delta_net_lacks_is_refused() -> None:
    with pytest.raises(vtprune.VtpruneError, match=r"layer 0 has no keys and values \(it is a Qwen3_5GatedDeltaNet\)"):
        vtprune.prune(tiny("qwen3_5").model, "plphp")
