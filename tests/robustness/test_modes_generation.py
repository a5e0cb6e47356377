"""Ways of generating that the other files leave out, each against the masked reference or an equivalent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StaticCache

import vtprune
from tests.robustness.scenes import DROP, EVICT, STAGES, attribute, logits, recipe, reference_of, tokens
from vtprune.core.errors import UnsupportedModeError
from vtprune.testing.models import Inputs, Tiny, tiny_llava, tiny_qwen2_5_vl
from vtprune.testing.reference import greedy_steps

SAMPLING: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 2},
    "penalty": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


def sampled(model: Any, inputs: Inputs, **options: Any) -> torch.Tensor:
    torch.manual_seed(5)
    with torch.no_grad():
        made: torch.Tensor = model.generate(**inputs, max_new_tokens=8, **options)
    return made


@pytest.mark.parametrize("how", SAMPLING)
@pytest.mark.parametrize("stages", ["drop", "both"])
def test_sampling_draws_what_the_reference_draws(tiny: Tiny, stages: str, how: str) -> None:
    inputs = tiny.make_inputs((1, 1), seed=2)
    plain = sampled(tiny.model, inputs, **SAMPLING[how])
    with vtprune.prune(tiny.model, recipe(*STAGES[stages])) as run:
        pruned = sampled(tiny.model, inputs, **SAMPLING[how])
    copies = SAMPLING[how].get("num_return_sequences", 1) if SAMPLING[how].get("num_beams", 1) == 1 else 1
    with reference_of(tiny.model, run.report, inputs):
        expected = sampled(tiny.model, inputs, **SAMPLING[how])
    assert torch.equal(pruned, expected)
    assert len(pruned) == 2 * max(copies, SAMPLING[how].get("num_return_sequences", 1))
    assert not torch.equal(pruned, plain)


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_the_unpruned_model(build: Any, dtype: torch.dtype) -> None:
    """The distance to the masked reference is of the size of the unpruned model's own rounding."""
    exact, rounded = build(), build.__wrapped__()
    rounded.model.to(dtype)
    inputs = exact.make_inputs((1, 2, 0, 1))
    own = (logits(rounded.model, inputs).float() - logits(exact.model, inputs))[:, -1].abs().max()
    with vtprune.prune(rounded.model, recipe(*STAGES["drop"])) as run:
        pruned = greedy_steps(rounded.model, inputs, 1).prefill.float()
    with reference_of(rounded.model, run.report, inputs):
        expected = greedy_steps(rounded.model, inputs, 1).prefill.float()
    assert pruned.isfinite().all()
    assert own > 0
    assert (pruned - expected).abs().max() <= 2 * own


@pytest.mark.parametrize(
    "name", ["offloaded_static", "sliding_window", "hybrid", "offloaded_hybrid", "dynamic_full", "hybrid_chunked"]
)
def test_every_other_cache_implementation_is_refused(tiny: Tiny, name: str) -> None:
    value = None
    with (
        attribute(tiny.model.generation_config, "cache_implementation", value),
        vtprune.prune(tiny.model, recipe(DROP)) as run,
        pytest.raises(UnsupportedModeError, match=f"cache_implementation='{name}': only the dynamic cache"),
    ):
        tiny.model.generate(**tiny.make_inputs((1,)), cache_implementation=name)
    assert run.reports == []


@pytest.mark.parametrize("stage", [DROP, EVICT])
def test_an_offloaded_static_cache_is_refused(tiny: Tiny, stage: dict[str, Any]) -> None:
    cache = StaticCache(config=tiny.model.config.get_text_config(), max_cache_len=128, offloading=True)
    with (
        vtprune.prune(tiny.model, recipe(stage)),
        pytest.raises(UnsupportedModeError, match="StaticCache cannot be pruned"),
    ):
        tiny.model.generate(**tiny.make_inputs((1,)), past_key_values=cache, max_new_tokens=2)


def test_compiled_generation_needs_a_static_cache_and_is_refused(tiny: Tiny) -> None:
    from transformers.generation import CompileConfig

    config = GenerationConfig(max_new_tokens=2, cache_implementation="static", compile_config=CompileConfig())
    with (
        vtprune.prune(tiny.model, recipe(DROP)),
        pytest.raises(UnsupportedModeError, match=r"cache_implementation='static'.*leave it unset"),
    ):
        tiny.model.generate(**tiny.make_inputs((1,)), generation_config=config)


@pytest.mark.parametrize("cut", ["before", "inside", "after"])
def test_a_prompt_fed_in_chunks_by_hand(tiny: Tiny, cut: str) -> None:
    """Chunks that part the prompt outside its image are two turns; a chunk that ends inside one is an error."""
    inputs = tiny.make_inputs((1,), text=(4, 4))
    ids = inputs["input_ids"]
    vision = (ids[0] == 127).nonzero().squeeze(-1)
    at = {"before": int(vision[0]) - 2, "inside": int(vision[4]), "after": int(vision[-1]) + 2}[cut]
    extra = {name: tensor for name, tensor in inputs.items() if name in ("pixel_values", "image_grid_thw")}
    head = {"input_ids": ids[:, :at], **({} if cut == "before" else extra)}
    with vtprune.prune(tiny.model, recipe(DROP)) as run, torch.no_grad():
        if cut == "inside":
            with pytest.raises((UnsupportedModeError, ValueError, RuntimeError)):
                tiny.model(**head, use_cache=True)
            assert run.reports == []
            return
        if cut == "before":
            with pytest.raises(vtprune.VtpruneError, match="no vision token"):
                tiny.model(**head, use_cache=True)
            return
        tiny.model(**head, use_cache=True)
    assert len(run.reports) == 1


@pytest.mark.parametrize("stages", STAGES)
def test_generating_behind_padding_on_the_right_is_refused(tiny: Tiny, stages: str) -> None:
    """The next token would be read from a padding position. A batch without padding has no side."""
    with vtprune.prune(tiny.model, recipe(*STAGES[stages])) as run:
        with pytest.raises(
            UnsupportedModeError, match=r"samples \[0, 2\] of the batch are padded on the right.*'left'"
        ):
            tokens(tiny.model, tiny.make_inputs((1, 2, 1), side="right"), 3)
        assert run.reports == []
        tokens(tiny.model, tiny.make_inputs((1,), side="right"), 1)
        tokens(tiny.model, tiny.make_inputs((1, 2, 1)), 1)
    assert len(run.reports) == 2
