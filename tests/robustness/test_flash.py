"""Flash kernels, by a stand-in that takes what they take: a 2-D padding mask, and causality from the lower right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vtprune
from tests.robustness.scenes import DROP, EVICT, INPUT_DROP, recipe, unchanged, warm
from vtprune.core.component import Allocation, AllocationRequest, Allocator
from vtprune.core.errors import UnsupportedModeError
from vtprune.core.signals import Signals
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl
from vtprune.testing.reference import greedy_steps

FRESH = {"llava": tiny_llava.__wrapped__, "qwen2_5_vl": tiny_qwen2_5_vl.__wrapped__}
RECIPES = {
    "input": [INPUT_DROP],
    "drop": [DROP],
    "twice": [{**DROP, "site": "llm.layers[0]", "scorer": "random"}, {**DROP, "site": "llm.layers[2]", "budget": 0.25}],
    "evict": [EVICT],
    "both": [DROP, {**EVICT, "budget": 0.25}],
}


def stand_in(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """query, key, value: ``[batch, head or kv_head, token, dim]``; attention_mask: ``[batch, key]`` or None."""
    assert module.config._attn_implementation == "flash_attention_2"
    assert attention_mask is None or attention_mask.dim() == 2
    groups, new, length = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    visible = torch.ones(new, length, dtype=torch.bool).tril(length - new)[None, None]
    if attention_mask is not None:
        assert attention_mask.shape == (query.shape[0], length)
        visible = visible & attention_mask[:, None, None].bool()
        visible = visible | ~visible.any(-1, keepdim=True)
    scores = query @ key.repeat_interleave(groups, 1).mT * kwargs["scaling"]
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None


@pytest.fixture(params=FRESH)
def flash(request: pytest.FixtureRequest) -> Iterator[tuple[Tiny, Tiny]]:
    """A model that believes in flash attention, and the same one with sdpa."""
    tiny, twin = FRESH[request.param](), FRESH[request.param]()
    tiny.model.get_decoder().config._attn_implementation_internal = "flash_attention_2"
    ALL_ATTENTION_FUNCTIONS["flash_attention_2"] = stand_in
    yield warm(tiny), warm(twin)
    del ALL_ATTENTION_FUNCTIONS["flash_attention_2"]


@pytest.mark.parametrize("images", [(1,), (1, 2, 0, 1)], ids=["single", "padded"])
@pytest.mark.parametrize("stages", RECIPES)
def test_flash_equals_sdpa(flash: tuple[Tiny, Tiny], stages: str, images: tuple[int, ...]) -> None:
    results, kept = [], []
    for tiny in flash:
        inputs = tiny.make_inputs(images)
        with unchanged(tiny.model), vtprune.prune(tiny.model, recipe(*RECIPES[stages])) as run:
            results.append(greedy_steps(tiny.model, inputs, 6))
        kept.append([event.to_dict() for event in run.report.events])
    assert kept[0] == kept[1]
    assert torch.equal(results[0].tokens, results[1].tokens)
    torch.testing.assert_close(results[0].logits, results[1].logits, rtol=0, atol=1e-5)


def test_unequal_samples_of_an_unpadded_batch(flash: tuple[Tiny, Tiny]) -> None:
    """Rows of one length become rows of several lengths, so a mask has to be made where there was none."""
    tiny, twin = flash
    one = tiny.make_inputs((1,), seed=3)
    inputs = {
        name: tensor.expand(2, *tensor.shape[1:]).clone()
        if name not in ("pixel_values", "image_grid_thw")
        else torch.cat([tensor, tensor.flip(-1) if name == "pixel_values" else tensor])
        for name, tensor in one.items()
    }
    stage = {**DROP, "budget": None, "selector": {"name": "top_p", "p": 0.6}}
    results, counts = [], []
    for model in (tiny.model, twin.model):
        with vtprune.prune(model, recipe(stage)) as run:
            results.append(greedy_steps(model, inputs, 4))
        counts.append([row[-1] for row in run.report.vision_tokens])
    assert counts[0] == counts[1]
    assert len(set(counts[0])) == 2, "the samples keep equally many, so the test shows nothing"
    torch.testing.assert_close(results[0].logits, results[1].logits, rtol=0, atol=1e-5)


class PerHead(Allocator):
    """One token more in each further KV head."""

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        assert request.kv_heads is not None
        counts = 3 + torch.arange(request.kv_heads)
        return Allocation(counts[None, :, None].expand(signals.batch, -1, len(request.sizes)))


def test_ragged_heads_are_refused(flash: tuple[Tiny, Tiny]) -> None:
    tiny, twin = flash
    stages = recipe({**EVICT, "allocator": PerHead()})
    with vtprune.prune(twin.model, stages):
        greedy_steps(twin.model, twin.make_inputs((1,)), 3)
    with (
        unchanged(tiny.model),
        vtprune.prune(tiny.model, stages),
        pytest.raises(UnsupportedModeError, match=r"stages\[0\]: KV heads of layer 1 keep different numbers.*'sdpa'"),
    ):
        greedy_steps(tiny.model, tiny.make_inputs((1,)), 3)
