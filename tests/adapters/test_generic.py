"""Families whose adapter is hidden are recognised by their structure, and served as exactly."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from inspect import signature
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import LlavaModel

import vtprune
from tests.adapters.exactness import BATCH, SEED, tiny
from tests.exactness.helpers import (
    POWER,
    TOLERANCE,
    assert_agree,
    distance,
    generate,
    has_image,
    matrix,
    reference,
    survivors,
)
from vtprune.core import lookup, recognise
from vtprune.core.errors import BindingError, UnsupportedModeError, UnsupportedModelError
from vtprune.core.lookup import locate
from vtprune.core.registry import Registry
from vtprune.testing.models import vision_mask
from vtprune.testing.models.families import VARIANTS

TAKES_SIZES = "image_sizes" in signature(LlavaModel.get_image_features).parameters
PER_HEAD = {"name": "attention", "head_reduction": "none"}
BEFORE = {"site": "projector.output", "selector": "max_min"}
LAYER = {"site": "llm.layers[1]", "scorer": "attention"}
CACHE = {"site": "llm.layers[1:3].kv", "scorer": PER_HEAD}
REFUSED = {
    "gemma4": "per_layer_input",
    "gemma4-layer-inputs": "per_layer_input",
    "gemma4-shared": "shared_kv_states",
    "gemma4-bidirectional": "per_layer_input",
    "lfm2_vl": "conv",
    "qwen3_5": "linear_attention",
    "qwen3_5-experts": "linear_attention",
}
"""Variants in which dropping tokens needs more than structure tells, and what the refusal names."""
ONE_TENSOR = {"idefics2"} if Version(transformers.__version__) < Version("5.20") else set()
"""Variants whose features come in one tensor for all images, so that a batch is refused when it runs."""
SERVED = [
    name for name, variant in VARIANTS.items() if variant.available and name not in REFUSED and name not in ONE_TENSOR
]


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lookup, "registry", Registry)
    with torch.no_grad():
        yield


def stages(budget: float) -> list[dict[str, Any]]:
    return [{**stage, "budget": budget} for stage in (BEFORE, LAYER, CACHE)]


@pytest.mark.parametrize("name", SERVED)
def test_keeping_everything_changes_no_bit(name: str) -> None:
    model, inputs = tiny(name).model, tiny(name).make_inputs(BATCH, seed=SEED)
    assert locate(model).adapter.recognised
    logits, generated = model(**inputs).logits, generate(model, inputs)
    with vtprune.prune(model, {"stages": stages(1.0)}) as run:
        assert torch.equal(model(**inputs).logits, logits)
        found = generate(model, inputs)
        report = run.report
    assert torch.equal(found.tokens, generated.tokens)
    assert torch.equal(found.logits, generated.logits)
    assert [layout.vision for layout in report.layouts] == vision_mask(inputs).sum(1).tolist()


@pytest.mark.parametrize(
    ("name", "which"), matrix(SERVED, ["before", "layer", "cache", "all"], slow=lambda name, which: which != "all")
)
def test_removal_is_masking(name: str, which: str) -> None:
    """Prefill and every decoding step, in a padded batch with several images of different sizes."""
    model, inputs = tiny(name).model, tiny(name).make_inputs(BATCH, seed=SEED)
    chosen = {"before": [BEFORE], "layer": [LAYER], "cache": [CACHE], "all": [BEFORE, LAYER, CACHE]}[which]
    budget = 0.6 if which == "all" else 0.3
    unpruned = generate(model, inputs)
    with vtprune.prune(model, {"stages": [{**stage, "budget": budget} for stage in chosen]}) as run:
        logits = model(**inputs).logits
        generated = generate(model, inputs)
        report = run.report
    with reference(model, report, inputs["input_ids"].shape[1]):
        expected_logits = model(**inputs).logits
        expected = generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    assert_agree(generated, expected)
    effect = (generated.logits - unpruned.logits).abs().amax((0, 2))
    seen = effect[has_image(inputs)] > POWER
    # A short window has moved past the images of longer prompts when decoding begins.
    assert bool(seen.any() if "window" in name else seen.all()), (
        f"the reference would not notice a missing prune: {effect}"
    )


@pytest.mark.parametrize("name", sorted(ONE_TENSOR))
def test_features_that_cannot_be_told_apart_are_refused(name: str) -> None:
    model = tiny(name).model
    inputs = tiny(name).make_inputs(BATCH, seed=SEED)
    with (
        vtprune.prune(model, {"stages": stages(0.5)}),
        pytest.raises(UnsupportedModeError, match="images of this batch do not end"),
    ):
        model(**inputs)


@pytest.mark.parametrize("name", [name for name in REFUSED if VARIANTS[name].available])
def test_what_structure_does_not_tell_is_refused(name: str) -> None:
    model = tiny(name).model
    with pytest.raises(UnsupportedModelError) as raised:
        vtprune.prune(model, {"stages": stages(0.5)})
    message = str(raised.value)
    for part in (f"no adapter for model class {type(model).__name__}", "found: image placeholder", REFUSED[name]):
        assert part in message
    assert "`vtprune adapters inspect MODEL`" in message


def test_every_image_is_a_segment_of_its_own() -> None:
    model, inputs = tiny("qwen2_5_vl").model, tiny("qwen2_5_vl").make_inputs(BATCH, seed=SEED)
    counts = (inputs["image_grid_thw"].prod(-1) // 4).tolist()
    with vtprune.prune(model, {"stages": stages(0.5)}) as run:
        model(**inputs)
    seen = [segment.stop - segment.start for layout in run.report.layouts for segment in layout.segments]
    assert seen == counts
    assert len(set(counts)) > 1


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "internvl"])
def test_random_choices_do_not_depend_on_batch_mates(name: str) -> None:
    model = tiny(name).model
    with vtprune.prune(model, {"stages": [{"site": "projector.output", "scorer": "random", "budget": 0.4}]}) as run:
        model(**tiny(name).make_inputs(BATCH, seed=SEED))
        together = run.report
        for sample, count in enumerate(BATCH):
            if count:
                model(**tiny(name).make_inputs((count,), seed=SEED + sample))
                assert run.report.kept(0, 0) == together.kept(0, sample)


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        pytest.param(
            "llava",
            {"site": "projector.output", "scorer": "random", "budget": 0.5},
            "needs sample_seed",
            marks=pytest.mark.skipif(not TAKES_SIZES, reason="the pixels alone are its arguments in this transformers"),
        ),
        ("llava", {"site": "projector.output", "scorer": "uniform_grid", "budget": 0.5}, "needs grid"),
        ("llava", {"site": "projector.output", "scorer": "cls_attention", "budget": 0.5}, "needs vision_attention"),
        ("llava", {"site": "vision.output", "selector": "max_min", "budget": 0.5}, "vision.output"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(name: str, stage: dict[str, Any], reason: str) -> None:
    with pytest.raises(BindingError, match=reason):
        vtprune.prune(tiny(name).model, {"stages": [stage]})


def test_one_warning_for_each_model_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "_warned", set())
    model = tiny("llava").model
    with pytest.warns(UserWarning, match="no adapter is registered for LlavaForConditionalGeneration.*not verified"):
        vtprune.prune(model, {"stages": stages(0.5)})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no adapter is registered")
        vtprune.prune(model, {"stages": stages(0.5)})


def test_features_in_one_tensor_are_refused_for_several_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one image of such a tensor ends, and so where one sample does, is unknown."""
    model, native = tiny("llava").model, tiny("llava").model.model.get_image_features

    def joined(*args: Any, **kwargs: Any) -> Any:
        output = native(*args, **kwargs)
        output.pooler_output = torch.cat(list(output.pooler_output))
        return output

    monkeypatch.setitem(model.model.__dict__, "get_image_features", joined)
    inputs = tiny("llava").make_inputs((1, 1))
    with (
        vtprune.prune(model, {"stages": stages(0.5)}),
        pytest.raises(UnsupportedModeError, match=r"features of 2 images as one tensor \[32, 64\]"),
    ):
        model(**inputs)


def test_placeholders_that_are_not_filled_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava").model
    decoder = model.get_decoder()
    table = model.get_input_embeddings()
    inputs = tiny("llava").make_inputs((1,))

    def unfill(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "inputs_embeds": table(inputs["input_ids"])}

    handle = decoder.register_forward_pre_hook(unfill, with_kwargs=True)
    try:
        with (
            vtprune.prune(model, {"stages": stages(0.5)}),
            pytest.raises(
                UnsupportedModeError, match=r"still carries the placeholder's own embedding.*cross-attention"
            ),
        ):
            model(**inputs)
    finally:
        handle.remove()


def test_cross_attention_is_the_reason() -> None:
    from vtprune.testing.models.mllama import tiny_mllama

    with pytest.raises(
        UnsupportedModelError, match=r"cross_attn, so vision enters by cross-attention.*no token to drop"
    ):
        vtprune.prune(tiny_mllama().model, {"stages": stages(0.5)})


def test_a_decoder_that_cannot_be_had_is_missing_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava").model

    def failing() -> None:
        raise RuntimeError("weights are sharded\non another machine")

    monkeypatch.setattr(model, "get_decoder", failing)
    name = type(model).__name__
    with pytest.raises(
        UnsupportedModelError,
        match=rf"a language model: get_decoder\(\) of {name} raised RuntimeError: weights are sharded(?!.*machine)",
    ):
        vtprune.prune(model, {"stages": stages(0.5)})
