"""The analytic cost model against PyTorch's FLOP counter and against the tensors of a real cache.

Everything counted runs with the eager attention: the counter knows plain matrix products, but has no entry for the sdpa
kernel of the CPU and would report an attention of zero FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from vtprune.core.engine.cost import CostModel, LayerCost, module_flops_per_token, vision_flops
from vtprune.core.errors import UnsupportedModelError
from vtprune.testing.models import IMAGE, Tiny, tiny_llava, tiny_qwen2_5_vl

AGREEMENT = 0.001  # They agree exactly, but for the rotary angles, which some releases count.
FAMILIES = (tiny_llava, tiny_qwen2_5_vl)
Build = Callable[..., Tiny]


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def cost_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> CostModel:
    layers = model.get_decoder().layers
    return CostModel.of(layers, [layer.self_attn for layer in layers], model.lm_head, dtype)


def counted(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def text_ids(length: int) -> torch.Tensor:
    return torch.randint(1, 120, (1, length), generator=torch.Generator().manual_seed(0))


def every(model: CostModel, tokens: int) -> list[int]:
    return [tokens] * len(model.layers)


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("length", [24, 150])
def test_prefill_matches_the_counter(build: Build, length: int) -> None:
    model = build("eager").model
    cost = cost_of(model)
    measured = counted(lambda: model(input_ids=text_ids(length), logits_to_keep=1))
    assert cost.prefill_with(every(cost, 0), length) == pytest.approx(measured, rel=AGREEMENT)


@pytest.mark.parametrize("build", FAMILIES)
def test_decoding_step_matches_the_counter(build: Build) -> None:
    model = build("eager").model
    cost = cost_of(model)
    cache = model(input_ids=text_ids(150), use_cache=True).past_key_values
    measured = counted(lambda: model(input_ids=text_ids(1), past_key_values=cache, use_cache=True))
    assert cost.forward(every(cost, 1), every(cost, 151), logits=1) == pytest.approx(measured, rel=AGREEMENT)


@pytest.mark.parametrize("build", FAMILIES)
def test_a_plain_forward_pass_puts_every_token_through_the_head_and_generate_one(build: Build) -> None:
    model = build("eager").model
    cost = cost_of(model)
    prefill = every(cost, 40)
    measured = counted(lambda: model(input_ids=text_ids(40)))
    assert cost.forward(prefill, prefill, logits=40) == pytest.approx(measured, rel=AGREEMENT)
    assert cost.forward(prefill, prefill, logits=1) != pytest.approx(measured, rel=AGREEMENT)

    steps = sum(cost.forward(every(cost, 1), every(cost, 40 + step), logits=1) for step in (1, 2))
    inputs = {"input_ids": text_ids(40), "attention_mask": torch.ones(1, 40, dtype=torch.long)}
    measured = counted(lambda: model.generate(**inputs, max_new_tokens=3, do_sample=False))
    assert cost.prefill_with(every(cost, 0), 40) + steps == pytest.approx(measured, rel=AGREEMENT)


def llava_vision_flops(model: nn.Module, images: int) -> int:
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    layers = next(module for name, module in tower.named_modules() if name.endswith("encoder.layers"))
    windows = [[17] * images] * len(layers)
    return vision_flops(tower, layers, 16 * images, windows) + 16 * images * module_flops_per_token(projector)


def qwen_vision_flops(model: nn.Module, windows: Sequence[Sequence[int]]) -> int:
    tower = model.model.visual
    patches = sum(windows[0])
    projector = patches // 4 * module_flops_per_token(tower.merger)
    return vision_flops(tower, tower.blocks, patches, windows, exclude=[tower.merger]) + projector


# One 8x8 image, and one of 6x10 patches whose border windows are cut; the last block attends within the image.
QWEN_GRIDS = [(1, 8, 8), (1, 6, 10)]
QWEN_LOCAL = [16, 16, 16, 16, 16, 16, 8, 8, 8, 4]
QWEN_WINDOWS = [QWEN_LOCAL, QWEN_LOCAL, [64, 60]]


@dataclass(frozen=True)
class Whole:
    cost: CostModel
    vision: int
    measured: int
    text: int
    vision_tokens: int


@pytest.fixture(params=["llava", "qwen2_5_vl"])
def whole(request: pytest.FixtureRequest) -> Whole:
    """One sample with two images through the whole model, text and vision."""
    if request.param == "llava":
        tiny = tiny_llava("eager")
        inputs, vision = tiny.make_inputs((2,)), llava_vision_flops(tiny.model, 2)
    else:
        tiny = tiny_qwen2_5_vl("eager")
        inputs, vision = tiny.make_inputs((2,), grids=QWEN_GRIDS), qwen_vision_flops(tiny.model, QWEN_WINDOWS)
    measured = counted(lambda: tiny.model(**inputs, logits_to_keep=1))
    ids = inputs["input_ids"]
    count = int((ids == IMAGE).sum())
    return Whole(cost_of(tiny.model), vision, measured, ids.numel() - count, count)


def test_whole_model_matches_the_counter(whole: Whole) -> None:
    language = whole.cost.prefill_with(every(whole.cost, whole.vision_tokens), whole.text)
    assert whole.vision + language == pytest.approx(whole.measured, rel=AGREEMENT)


def test_the_tower_alone_matches_the_counter() -> None:
    llava, qwen = tiny_llava("eager"), tiny_qwen2_5_vl("eager")
    pixels = llava.make_inputs((2,))["pixel_values"]
    measured = counted(lambda: llava.model.get_image_features(pixel_values=pixels))
    assert llava_vision_flops(llava.model, 2) == pytest.approx(measured, rel=AGREEMENT)

    inputs = qwen.make_inputs((2,), grids=QWEN_GRIDS)
    measured = counted(lambda: qwen.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]))
    assert qwen_vision_flops(qwen.model, QWEN_WINDOWS) == pytest.approx(measured, rel=AGREEMENT)
    for wrong in ([[124]] * 3, [[64, 60]] * 3, [QWEN_LOCAL] * 3):
        assert qwen_vision_flops(qwen.model, wrong) != pytest.approx(measured, rel=AGREEMENT)


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("share", [0.0, 0.5, 2.0], ids=["no attention", "KV heads or causal half", "twice"])
def test_a_wrong_attention_term_would_be_noticed(build: Build, share: float) -> None:
    model = build("eager").model
    right = cost_of(model)
    wrong = replace(right, layers=tuple(replace(layer, pair=int(layer.pair * share)) for layer in right.layers))
    prefill = counted(lambda: model(input_ids=text_ids(150), logits_to_keep=1))
    assert wrong.prefill_with(every(wrong, 0), 150) != pytest.approx(prefill, rel=50 * AGREEMENT)
    cache = model(input_ids=text_ids(150), use_cache=True).past_key_values
    step = counted(lambda: model(input_ids=text_ids(1), past_key_values=cache, use_cache=True))
    assert wrong.forward(every(wrong, 1), every(wrong, 151), logits=1) != pytest.approx(step, rel=50 * AGREEMENT)


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_bytes_are_those_of_the_real_cache(build: Build, dtype: torch.dtype) -> None:
    tiny = build("sdpa")
    inputs = tiny.make_inputs((1,))
    cache = tiny.model(**inputs, use_cache=True).past_key_values
    tensors = [states.to(dtype) for layer in cache.layers for states in (layer.keys, layer.values)]
    cost = cost_of(tiny.model, dtype)
    length = inputs["input_ids"].shape[1]
    assert cost.kv_bytes(every(cost, length)) == sum(states.nbytes for states in tensors)


def test_kv_bytes_by_layer_and_by_head() -> None:
    cost = CostModel((LayerCost(1, 1, kv_bytes=8, kv_heads=2), LayerCost(1, 1, kv_bytes=4, kv_heads=3)), head=0)
    assert cost.kv_bytes([5, 7]) == 5 * 2 * 8 + 7 * 3 * 4
    assert cost.kv_bytes([(5, 1), 7]) == 6 * 8 + 7 * 3 * 4
    assert cost.kv_bytes([(0, 0), (1, 2, 3)]) == 6 * 4


def test_every_layer_counts_its_own_tokens() -> None:
    cost = CostModel((LayerCost(10, 1, 8, 2), LayerCost(100, 3, 8, 2)), head=1000)
    assert cost.forward([5, 2], [5, 4], logits=3) == (5 * 10 + 25) + (2 * 100 + 3 * 8) + 3000
    assert cost.prefill_with([4, 1], text=1) == cost.forward([5, 2], [5, 2], logits=1)
    assert cost.prefill_with([4.5, 1.0], text=1, logits=0) == round(5.5 * 10 + 5.5**2 + 2 * 100 + 3 * 4)
    assert type(cost.prefill_with([4.5, 1.0], text=1)) is int


def test_large_counts_stay_exact() -> None:
    cost = CostModel((LayerCost(2**31 + 1, 2**14 + 1, 8, 2),), head=0)
    tokens = 2**20 + 1
    assert cost.forward([tokens], [tokens], 0) == tokens * (2**31 + 1) + tokens**2 * (2**14 + 1)


def test_flops_of_single_modules() -> None:
    assert module_flops_per_token(nn.Linear(3, 5)) == 30
    assert module_flops_per_token(nn.Conv2d(3, 8, kernel_size=(2, 4))) == 2 * 3 * 8 * 8
    assert module_flops_per_token(nn.Conv1d(6, 6, kernel_size=3, groups=6)) == 2 * 6 * 3
    free = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.GELU())
    assert module_flops_per_token(free) == 0
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4))
    assert module_flops_per_token(nn.Sequential(nn.Linear(3, 5), inner), exclude=[inner, nn.Linear(9, 9)]) == 30


@pytest.fixture
def mixture() -> nn.Module:
    config = Qwen3MoeConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=6,
        num_experts_per_tok=2,
        mlp_only_layers=[1],
    )
    config._experts_implementation = "eager"
    model = Qwen3MoeForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    return model


def test_a_mixture_of_experts_counts_the_visited_experts(mixture: nn.Module) -> None:
    measured = counted(lambda: mixture(input_ids=text_ids(64), logits_to_keep=1))
    cost = cost_of(mixture)
    assert cost.prefill_with([0, 0], 64) == pytest.approx(measured, rel=AGREEMENT)
    assert [layer.kv_heads for layer in cost.layers] == [1, 1]
    assert cost.layers[0].pair == 4 * 4 * 16


def test_experts_without_a_router_are_refused(mixture: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match=r"6 experts.*no top_k.*one decoder layer"):
        module_flops_per_token(mixture.model.layers[0].mlp.experts)


class Fused(nn.Module):
    """An attention with one fused projection: its head counts are in the config, and in nothing else."""

    def __init__(self, **config: int) -> None:
        super().__init__()
        self.head_dim = 4
        self.qkv = nn.Linear(16, 32)
        self.config = type("Config", (), config)()


def test_heads_come_from_the_config_where_projections_do_not_show_them() -> None:
    attention = Fused(num_attention_heads=4, num_key_value_heads=2)
    cost = CostModel.of([attention], [attention], None, torch.float16)
    assert cost == CostModel((LayerCost(2 * 16 * 32, 4 * 4 * 4, 2 * 4 * 2, 2),), head=0)


def test_a_module_that_does_not_reveal_its_heads_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear has no integer `head_dim`"):
        CostModel.of([nn.Linear(2, 2)], [nn.Linear(2, 2)], None, torch.float32)
    with pytest.raises(UnsupportedModelError, match="Fused has no integer `num_key_value_heads`"):
        CostModel.of([nn.Linear(2, 2)], [Fused(num_attention_heads=7)], None, torch.float32)  # the 8th is no pair
    with pytest.raises(UnsupportedModelError, match="Fused has no integer `num_heads` or `num_attention_heads`"):
        CostModel.of([nn.Linear(2, 2)], [Fused()], None, torch.float32)
    with pytest.raises(UnsupportedModelError, match="Linear holds 0 modules with a `head_dim`"):
        vision_flops(nn.Linear(2, 2), [nn.Linear(2, 2)], 4, [[4]])


def test_wrong_numbers_of_entries_are_refused() -> None:
    cost = CostModel((LayerCost(1, 1, 8, 2),) * 2, head=1)
    with pytest.raises(ValueError, match="attention has 0 entries; expected one per layer, that is 1"):
        CostModel.of([nn.Linear(2, 2)], [], None, torch.float32)
    with pytest.raises(ValueError, match="queries has 1 entries; expected one per layer, that is 2"):
        cost.forward([1], [1, 1], 1)
    with pytest.raises(ValueError, match="keys has 3 entries"):
        cost.forward([1, 1], [1, 1, 1], 1)
    with pytest.raises(ValueError, match="queries holds -1; a number of tokens is at least 0"):
        cost.forward([1, -1], [1, 1], 1)
    with pytest.raises(ValueError, match="tokens has 1 entries"):
        cost.kv_bytes([3])
    with pytest.raises(ValueError, match=r"tokens\[1\] has 3 entries; expected one per KV head, that is 2"):
        cost.kv_bytes([3, (1, 2, 3)])
    with pytest.raises(ValueError, match="windows has 2 entries; expected one per layer, that is 1"):
        vision_flops(nn.Linear(2, 2), [nn.Linear(2, 2)], 4, [[4], [4]])
