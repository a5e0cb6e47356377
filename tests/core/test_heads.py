"""KV heads, counted once, against the cache that transformers really makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PersimmonConfig,
    Phi3Config,
    PretrainedConfig,
)

import vtprune
from vtprune.core.engine.cost import CostModel
from vtprune.core.engine.heads import kv_heads_of, query_heads_of
from vtprune.core.engine.layers import layer_kinds
from vtprune.core.errors import UnsupportedModelError
from vtprune.core.lookup import locate
from vtprune.inspection import inspect_model
from vtprune.testing.models import tiny_llava

SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "grouped": LlamaConfig(**SIZE, num_key_value_heads=2),
    "one for all": LlamaConfig(**SIZE, num_key_value_heads=1),
    "wide heads": LlamaConfig(**SIZE, num_key_value_heads=2, head_dim=16),
    "fused and grouped": Phi3Config(**SIZE, num_key_value_heads=2),
    "fused, no KV heads in the config": PersimmonConfig(**SIZE),
    "fused, its own name for KV heads": FalconConfig(**SIZE, multi_query=True, new_decoder_architecture=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_are_those_of_the_real_cache(name: str) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():
        cache = model(torch.arange(1, 6)[None], use_cache=True).past_key_values
    decoder = model.get_decoder()
    layers = decoder.h if hasattr(decoder, "h") else decoder.layers
    attention = getattr(layers[0], "self_attn", None) or layers[0].self_attention
    assert kv_heads_of(attention) == cache.layers[0].keys.shape[1]
    assert query_heads_of(attention) == SIZE["num_attention_heads"]


def fused_llava() -> LlavaForConditionalGeneration:
    """A LLaVA whose text config names no KV heads."""
    vision = tiny_llava().model.config.vision_config
    text = PersimmonConfig(**{**SIZE, "vocab_size": 128, "hidden_size": 64, "qk_layernorm": False})
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=127,
            image_seq_length=16,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    ).eval()


def test_a_text_config_without_kv_heads_is_inspected_and_pruned() -> None:
    model = fused_llava()
    found = inspect_model(model)
    assert found.adapter == "llava"
    assert "2 layers of 4 query heads and 4 KV heads" in found.modules["language model"]
    stages = [
        {"site": "llm.layers[1]", "scorer": "random", "budget": 0.5},
        {"site": "llm.layers[1].kv", "scorer": {"name": "attention", "head_reduction": "none"}, "budget": 0.25},
    ]
    with vtprune.prune(model, {"stages": stages}) as run, torch.no_grad():
        cache = model(**tiny_llava().make_inputs((1,)), use_cache=True).past_key_values
        assert cache.layers[1].lengths().tolist() == [[4 + run.report.text_tokens[0]] * 4]
    assert run.report.kv_tokens == [[[16] * 4, [4] * 4]]


def test_every_count_is_the_same() -> None:
    for model in (tiny_llava().model, fused_llava()):
        parts = locate(model)
        kinds = layer_kinds(parts)
        costs = CostModel.of(parts.layers, parts.attention, parts.head, torch.float32).layers
        assert [kind.kv_heads for kind in kinds] == [cost.kv_heads for cost in costs]
        assert [kind.width for kind in kinds] == [cost.kv_heads * cost.kv_bytes // 8 for cost in costs]
        assert [kind.groups * kind.kv_heads for kind in kinds] == [4] * len(kinds)


class Compressed(nn.Module):
    """An attention that keeps neither keys nor values of whole heads, and says nothing of them."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.head_dim = 4
        self.kv_a_proj = nn.Linear(16, 6)
        self.config = type("Config", (), config)()


def test_the_given_config_is_asked_last() -> None:
    given = type("Config", (), {"num_key_value_heads": 3})()
    assert kv_heads_of(Compressed(), given) == 3
    assert kv_heads_of(Compressed(num_key_value_heads=2), given) == 2
    with pytest.raises(UnsupportedModelError, match=r"Compressed has no .*`num_key_value_heads` or `num_kv_heads`"):
        kv_heads_of(Compressed(num_attention_heads=4))
