"""LFM2-VL and Qwen3.5: convolutions and linear attention among the attention layers.

A recurrence cannot be masked, so the reference here is the unhooked model, layer by layer and one sample at a time, on
a sequence from which the dropped tokens are really absent.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import vtprune
from tests.adapters.exactness import (
    BATCH,
    PER_HEAD,
    REMOVALS,
    SEED,
    SITES,
    assert_keeping_everything_changes_no_bit,
    assert_refused,
    assert_samples_are_independent,
    plain,
    tiny,
)
from tests.adapters.towers import assert_project_is_the_projector, assert_rows_are_those_that_matter
from tests.exactness.helpers import POWER, STEPS, TOLERANCE, Stages, distance, generate
from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.layers import layer_kinds
from vtprune.core.report import Report
from vtprune.testing.models import Inputs, vision_mask
from vtprune.testing.reference import MaskedReference, from_layer
from vtprune.verify.compare import tolerance_of
from vtprune.verify.masks import masks_of

FAMILY = "lfm2_vl"
QWEN_STAGES: dict[str, Stages] = {
    "projector": REMOVALS["projector"],
    "behind_linear_attention": [{"site": "llm.layers[1]", "scorer": "random", "budget": 0.3}],
    "before_linear_attention": [{"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3}],
    "kv": [{"site": "llm.layers[1,3].kv", "scorer": PER_HEAD, "budget": 0.25}],
}
STAGES: dict[str, Stages] = {
    "projector": REMOVALS["projector"],
    "behind_a_convolution": [{"site": "llm.layers[1]", "scorer": "random", "budget": 0.3}],
    "before_a_convolution": [{"site": "llm.layers[3]", "scorer": "attention", "budget": 0.3}],
    "kv": [{"site": "llm.layers[1:3].kv", "scorer": PER_HEAD, "budget": 0.25}],
    "stages": [
        {"site": "projector.output", "selector": "max_min", "budget": 0.7},
        {"site": "llm.layers[2,3]", "scorer": "attention", "budget": 0.4, "scope": "image"},
        {"site": "llm.layers[1,4].kv", "scorer": PER_HEAD, "budget": 0.2},
    ],
}


class Absent:
    """The decoder run by hand on one sample without padding, as a report says it was pruned."""

    def __init__(self, model: Any, inputs: Inputs, report: Report, steps: int = STEPS) -> None:
        self.model, self.text = model, model.get_decoder()
        self.report, self.at = report, report.layouts[0].positions
        self.cache = DynamicCache(config=self.text.config)
        embeddings, self.rotary = self._unpruned(inputs, steps)
        self.prefill = self._through(embeddings, 0)

    def _unpruned(self, inputs: Inputs, steps: int) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """The prompt's embeddings, and each step's rotary embeddings: dropping changes no position."""
        embeddings: list[Tensor] = []
        rotary: list[tuple[Tensor, ...]] = []
        with (
            self.text.register_forward_pre_hook(
                lambda _, args, kwargs: embeddings.append(kwargs["inputs_embeds"]), with_kwargs=True
            ),
            self.text.layers[0].register_forward_pre_hook(
                lambda _, args, kwargs: rotary.append(kwargs["position_embeddings"]), with_kwargs=True
            ),
        ):
            generate(self.model, inputs, steps)
        return embeddings[0], rotary

    def _kept(self, layer: int, kind: str) -> list[Tensor] | None:
        """The vision tokens (per KV head) that the last stage of a kind kept at a layer, or None."""
        found = None
        for event in self.report.events:
            if event.layer == layer and (self.report.recipe.stages[event.stage].site.kind == "kv") == (kind == "kv"):
                found = list(event.kept)
        return found

    def _without(self, positions: Tensor, kept: Tensor) -> Tensor:
        """Indices of the rows at ``positions`` that are text, or kept vision tokens."""
        gone = self.at[~torch.isin(torch.arange(len(self.at)), kept)]
        return (~torch.isin(positions, gone)).nonzero()[:, 0]

    def _through(self, hidden: Tensor, step: int) -> Tensor:
        prompt, rotary = step == 0, self.rotary[step]
        positions = torch.arange(hidden.shape[1])
        for index, layer in enumerate(self.text.layers):
            if prompt and (kept := self._kept(index, "drop")) is not None:
                rows = self._without(positions, kept[0])
                hidden, positions = hidden[:, rows], positions[rows]
                rotary = tuple(table[:, rows] for table in rotary)
            mask = self._causal(hidden) if hasattr(layer, "self_attn") else None
            hidden = layer(hidden, position_embeddings=rotary, attention_mask=mask, past_key_values=self.cache)
            if prompt and (heads := self._kept(index, "kv")) is not None:
                self._evict(self.cache.layers[index], [self._without(positions, kept) for kept in heads])
        norm = self.text.embedding_norm if hasattr(self.text, "embedding_norm") else self.text.norm
        return self.model.lm_head(norm(hidden))

    def _causal(self, hidden: Tensor) -> Tensor | None:
        """The sdpa kernel is causal by itself on a whole prompt, and one decoding step needs no mask."""
        tokens = hidden.shape[1]
        if tokens == 1 or self.text.config._attn_implementation != "eager":
            return None
        lowest = torch.finfo(hidden.dtype).min
        return torch.full((tokens, tokens), lowest).triu(1).expand(1, 1, -1, -1)

    @staticmethod
    def _evict(layer: Any, rows: list[Tensor]) -> None:
        heads = rows * (layer.keys.shape[1] // len(rows))
        layer.keys = torch.stack([layer.keys[:, head, chosen] for head, chosen in enumerate(heads)], 1)
        layer.values = torch.stack([layer.values[:, head, chosen] for head, chosen in enumerate(heads)], 1)

    def steps(self, tokens: Tensor) -> Tensor:
        """Logits ``[step, vocabulary]`` of prompt and generated ``tokens``: the prompt's last, then one per token."""
        found = [self.prefill[0, -1]]
        for number, token in enumerate(tokens[:-1]):
            embedded = self.text.embed_tokens(token.view(1, 1))
            found.append(self._through(embedded, number + 1)[0, -1])
        return torch.stack(found)


@pytest.mark.parametrize("recipe", STAGES)
@pytest.mark.parametrize("name", [FAMILY, pytest.param(f"{FAMILY}/eager", marks=pytest.mark.slow)])
def test_dropped_tokens_have_never_been_there(name: str, recipe: str) -> None:
    assert_dropped_tokens_have_never_been_there(name, STAGES[recipe])


@pytest.mark.parametrize("recipe", QWEN_STAGES)
@pytest.mark.parametrize("name", ["qwen3_5", pytest.param("qwen3_5/eager", marks=pytest.mark.slow)])
def test_dropped_tokens_have_never_been_there_in_qwen3_5(name: str, recipe: str) -> None:
    assert_dropped_tokens_have_never_been_there(name, QWEN_STAGES[recipe])


def assert_dropped_tokens_have_never_been_there(name: str, stages: Stages) -> None:
    model, (inputs, _, unpruned) = tiny(name).model, plain(name)
    with vtprune.prune(model, {"stages": stages}) as run:
        generated = generate(model, inputs)
    assert distance(generated.logits, unpruned.logits) > POWER
    for sample, images in enumerate(BATCH):
        if not images:
            assert distance(generated.logits[:, sample], unpruned.logits[:, sample]) < TOLERANCE
            continue
        alone = tiny(name).make_inputs((images,), seed=SEED + sample)
        with vtprune.prune(model, {"stages": stages}) as run:
            single, report = generate(model, alone), run.report
        expected = Absent(model, alone, report).steps(single.tokens[0])
        assert distance(single.logits[:, 0], expected) < TOLERANCE
        assert torch.equal(generated.tokens[sample], single.tokens[0])
        assert distance(generated.logits[:, sample], expected) < TOLERANCE


@pytest.mark.parametrize("name", [FAMILY, "qwen3_5"])
def test_the_reference_is_the_model(name: str) -> None:
    model, alone = tiny(name).model, tiny(name).make_inputs((2,), seed=SEED)
    expected = generate(model, alone)
    with vtprune.observe(model) as run:
        model(**alone)
    found = Absent(model, alone, run.report).steps(expected.tokens[0])
    assert distance(found, expected.logits[:, 0]) < TOLERANCE


def test_a_forward_pass_without_a_cache() -> None:
    model, (inputs, _, _) = tiny(FAMILY).model, plain(FAMILY)
    with vtprune.prune(model, {"stages": STAGES["behind_a_convolution"]}):
        with_cache = model(**inputs).logits
        without = model(**inputs, use_cache=False).logits
    assert distance(with_cache, without) < TOLERANCE


@pytest.mark.parametrize("site", [site for site in SITES if not site.endswith("[0].kv")] + ["llm.layers[1].kv"])
def test_keeping_everything_changes_no_bit(site: str) -> None:
    assert_keeping_everything_changes_no_bit(FAMILY, site)


def test_rows_are_the_patches_that_a_token_is_made_of() -> None:
    assert_rows_are_those_that_matter(FAMILY)


def test_project_is_the_projector_on_some_tokens() -> None:
    assert_project_is_the_projector(FAMILY)


def test_samples_are_independent() -> None:
    assert_samples_are_independent(FAMILY)


def test_attention_in_the_tower_does_not_depend_on_padding() -> None:
    """Images of a call are padded to the largest; its padding attends to them, but is not asked."""
    model = tiny(FAMILY).model
    scorer = {"name": "cls_attention", "query": "received"}
    stages: Stages = [{"site": "projector.output", "scorer": scorer, "budget": 0.4}]
    grids = [(1, 4, 8), (1, 10, 12)]
    both = tiny(FAMILY).make_inputs((1, 1), seed=SEED, grids=grids)
    with vtprune.prune(model, {"stages": stages}) as run:
        model(**both)
        together = run.report
        model(**tiny(FAMILY).make_inputs((1,), seed=SEED, grids=grids[:1]))
        assert run.report.kept() == together.kept(sample=0)
        assert len(run.report.kept()) == 3


@pytest.mark.parametrize("recipe", ["greedyprune", "fastv", "divprune"])
def test_recipes_run_by_name(recipe: str) -> None:
    """Layer 1 attends, so that FastV finds what it reads; exactness is that of the stages above."""
    model, (inputs, _, unpruned) = tiny(FAMILY).model, plain(FAMILY)
    with vtprune.prune(model, recipe) as run:
        generated = generate(model, inputs)
        report = run.report
    assert distance(generated.logits, unpruned.logits) > POWER
    assert all(len(event.kept[0]) < report.layouts[event.sample].vision for event in report.events if event.sample != 2)


def test_sites_and_signals_that_a_convolution_lacks_are_refused() -> None:
    with pytest.raises(vtprune.VtpruneError) as caught:
        vtprune.prune(tiny(FAMILY).model, "plphp")
    assert "layer 0 has no keys and values (it is a Lfm2ShortConv)" in str(caught.value)
    assert "site: llm.layers[1,2,4].kv" in str(caught.value)
    evict = {"site": "llm.layers[3].kv", "scorer": "random", "budget": 0.5}
    assert_refused(FAMILY, evict, "layer 3 has no keys and values", "use llm.layers[2].kv")
    reads = {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.5}
    assert_refused(FAMILY, reads, "layer 0 has no attention to read", "the nearest layer with attention is 1")
    reads = {"site": "llm.layers[4]", "scorer": "key_norm", "budget": 0.5}
    assert_refused(FAMILY, reads, "layer 3 has no attention to read", "Lfm2ShortConv")


def test_layers_without_attention_cost_no_pairs_and_cache_nothing() -> None:
    model, (inputs, _, _) = tiny(FAMILY).model, plain(FAMILY)
    with vtprune.prune(model, {"stages": STAGES["kv"]}) as run:
        generate(model, inputs, 3)
        report, parts = run.report, run._engine.parts
    assert layer_kinds(parts)[0].mixer == "Lfm2ShortConv"
    assert [len(heads) for heads in report.kv_tokens[0]] == [0, 2, 2, 0, 2]
    cost = CostModel.of(parts.layers, parts.attention, parts.head, torch.float32)
    assert [layer.pair > 0 for layer in cost.layers] == [False, True, True, False, True]
    width = 64
    convolution = 2 * width * 3 * width + 2 * 3 * width + 2 * width * width
    feed_forward = 3 * 2 * width * 96
    assert cost.layers[0].linear == convolution + feed_forward
    assert cost.kv_bytes([[5] * len(heads) for heads in report.kv_tokens[0]]) == 3 * 5 * 2 * 2 * 16 * 4
    tokens = inputs["input_ids"].numel()
    assert report.kv_bytes_full == 3 * tokens * 2 * 2 * 16 * 4


@pytest.mark.parametrize("recipe", ["projector", "behind"])
@pytest.mark.parametrize("name", [FAMILY, "qwen3_5"])
def test_the_masked_reference_takes_tokens_out_of_what_cannot_be_masked(name: str, recipe: str) -> None:
    """Two references that share nothing: tokens that have never been there, and masks with spliced recurrences."""
    model, alone = tiny(name).model, tiny(name).make_inputs((2,), seed=SEED)
    stages = REMOVALS["projector"] if recipe == "projector" else QWEN_STAGES["behind_linear_attention"]
    with vtprune.prune(model, {"stages": stages}) as run:
        model(**alone)
    hide, _ = masks_of(run.report, alone["input_ids"].shape[1])
    with MaskedReference(model, hide):
        masked = generate(model, alone)
    expected = Absent(model, alone, run.report).steps(masked.tokens[0])
    assert distance(masked.logits[:, 0], expected) < tolerance_of(model)
    assert distance(masked.logits, generate(model, alone).logits) > POWER


def test_the_masked_reference_in_a_ragged_batch_is_that_of_each_sample_alone() -> None:
    model, (inputs, _, _) = tiny("qwen3_5").model, plain("qwen3_5")
    keep = ~vision_mask(inputs)
    hide = from_layer(model, keep, 0)
    with MaskedReference(model, hide):
        together = generate(model, inputs)
    assert len(set(keep.sum(-1).tolist())) > 1
    for sample, images in enumerate(BATCH):
        alone = tiny("qwen3_5").make_inputs((images,), seed=SEED + sample)
        with MaskedReference(model, from_layer(model, ~vision_mask(alone), 0)):
            single = generate(model, alone)
        assert distance(together.logits[:, sample], single.logits[:, 0]) < tolerance_of(model)


def test_the_masked_reference_refuses_what_it_cannot_do() -> None:
    model, (inputs, _, _) = tiny(FAMILY).model, plain(FAMILY)
    keep = ~vision_mask(inputs)
    with pytest.raises(ValueError, match=r"hide_kv names layer 0, which has no attention, so no keys and values"):
        MaskedReference(model, hide_kv={0: keep[:, None]})
    cache, half = DynamicCache(config=model.get_decoder().config), inputs["input_ids"].shape[1] // 2
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    with MaskedReference(model, from_layer(model, keep, 0)), torch.no_grad():
        keep[:, half:] = torch.arange(keep.shape[1] - half) != torch.arange(len(keep))[:, None]
        keep[-1, half:] = True
        model.get_decoder()(inputs_embeds=embeddings[:, :half], past_key_values=cache)
        with pytest.raises(ValueError, match="cannot continue a recurrence"):
            model.get_decoder()(inputs_embeds=embeddings[:, half:], past_key_values=cache)
