"""Stages inside the vision tower: physical removal equals hiding the patches, in the tower and behind it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vtprune
from tests.exactness.helpers import (
    BATCHES,
    POWER,
    TOLERANCE,
    Generated,
    Stages,
    assert_agree,
    distance,
    generate,
    has_image,
    masks_of,
    matrix,
    survivors,
    taken,
)
from vtprune.core.report import Report
from vtprune.testing.hidden_patches import reference_tower, vision_layers
from vtprune.testing.models import Attention, Inputs, Tiny, tiny_llava
from vtprune.testing.models.families import variant
from vtprune.testing.reference import MaskedReference

DEPTH = 5
RANDOM = {"scorer": "random"}
UNEVEN = {"scorer": "random", "selector": {"name": "threshold", "value": 1.0, "relative": "mean"}}
MODELS: dict[str, tuple[str, Attention]] = {
    "llava-sdpa": ("llava", "sdpa"),
    "llava-eager": ("llava", "eager"),
    "vipllava-sdpa": ("vipllava", "sdpa"),
    "internvl-sdpa": ("internvl", "sdpa"),
    "internvl-eager": ("internvl", "eager"),
    "gemma3-sdpa": ("gemma3", "sdpa"),
    "paligemma-sdpa": ("paligemma", "sdpa"),
    "aya_vision-sdpa": ("aya_vision", "sdpa"),
    "cohere2_vision-sdpa": ("cohere2_vision", "sdpa"),
    "idefics3-sdpa": ("idefics3", "sdpa"),
    "idefics3-eager": ("idefics3", "eager"),
    "smolvlm-sdpa": ("smolvlm", "sdpa"),
    "ovis2-sdpa": ("ovis2", "sdpa"),
    "lfm2_vl-sdpa": ("lfm2_vl", "sdpa"),
    "lfm2_vl-eager": ("lfm2_vl", "eager"),
}
LLAVA = ("llava-sdpa", "llava-eager")
MASKED = [name for name in MODELS if not name.startswith("lfm2")]
"""LFM2's convolutions know of no mask, so that nothing can be hidden from its language model."""


def family(name: str) -> Tiny:
    """LLaVA's tower is deeper here than elsewhere, so that several layers can prune one after the other."""
    kind, attn = MODELS[name]
    return tiny_llava(attn, vision_layers=DEPTH) if kind == "llava" else variant(kind).make(attn)


def inputs_of(name: str, batch: str, seed: int = 0) -> Inputs:
    return family(name).make_inputs(BATCHES[batch], seed=seed)


RECIPES: dict[str, Stages] = {
    "one": [{"site": "vision.layers[1]", **RANDOM, "budget": 0.5}],
    "first": [{"site": "vision.layers[0]", **RANDOM, "budget": {"keep_tokens": 5}}],
    "uneven": [{"site": "vision.layers[1]", **UNEVEN}],
    "features": [{"site": "vision.layers[1]", "selector": "max_min", "budget": 0.4}],
    "then_language_model": [
        {"site": "vision.layers[1]", **UNEVEN},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.25},
    ],
}
DEEP: dict[str, Stages] = {
    "range": [
        {
            "site": "vision.layers[1:4]",
            **RANDOM,
            "allocator": {"name": "schedule", "shape": "linear", "end": 0.3},
            "budget": 0.5,
        }
    ],
    "attention": [
        {"site": "vision.layers[-3]", "scorer": {"name": "cls_attention", "layers": [0, -4]}, "budget": 0.6},
        {
            "site": "vision.layers[3]",
            "scorer": {"name": "cls_attention", "layers": [2], "query": "received"},
            "budget": 5,
        },
    ],
    "twice_at_a_layer": [
        {"site": "vision.layers[2]", **UNEVEN},
        {"site": "vision.layers[2]", "selector": "max_min", "budget": 0.25},
    ],
    "everywhere": [
        {"site": "vision.layers[1]", **RANDOM, "budget": 0.9},
        {"site": "vision.layers[3]", **UNEVEN},
        {"site": "vision.output", "selector": "max_min", "budget": 0.45},
        {"site": "projector.output", **RANDOM, "budget": 0.4},
        {"site": "llm.layers[1]", "scorer": {"name": "cls_attention", "layers": [-2]}, "budget": 0.25},
        {"site": "llm.layers[2:].kv", "scorer": "attention", "budget": 0.12},
    ],
    "protected": [{"site": "vision.layers[1]", **UNEVEN, "protect": [0, -1]}],
    "nothing": [{"site": "vision.layers[2]", **RANDOM, "budget": 0.0}],
}


@cache
def plain(name: str, batch: str) -> tuple[Tensor, Generated]:
    model, inputs = family(name).model, inputs_of(name, batch)
    with torch.no_grad():
        return model(**inputs).logits, generate(model, inputs)


def reference(name: str, report: Report, inputs: Inputs) -> ExitStack:
    """Both references, of the tower and of the language model."""
    stack, model = ExitStack(), family(name).model
    language = MaskedReference(model, *masks_of(report, inputs["input_ids"].shape[1]))
    stack.enter_context(reference_tower(model, variant(MODELS[name][0]).family, report))
    stack.enter_context(language)
    return stack


CELLS = [
    *matrix(MASKED, BATCHES, RECIPES, slow=lambda name, batch, _: batch != "padded" or "eager" in name),
    *matrix(LLAVA, BATCHES, DEEP, slow=lambda name, batch, _: batch != "padded" or "eager" in name),
]


@pytest.mark.parametrize(("name", "batch", "recipe"), CELLS)
def test_removal_equals_hiding(name: str, batch: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    stages = {**RECIPES, **DEEP}[recipe]
    with vtprune.prune(model, {"stages": stages}) as run:
        logits, forward_report = model(**inputs).logits, run.report
        generated, report = generate(model, inputs), run.report
    assert [event.to_dict() for event in forward_report.events] == [event.to_dict() for event in report.events]
    with reference(name, report, inputs):
        expected_logits, expected = model(**inputs).logits, generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    assert_agree(generated, expected)
    _, unpruned = plain(name, batch)
    effect = (generated.logits - unpruned.logits).abs().amax((0, 2))
    assert bool((effect[has_image(inputs)] > POWER).all()), f"a missing prune would not be noticed: {effect}"
    assert bool((effect[~has_image(inputs)] < TOLERANCE).all())


@pytest.mark.parametrize("name", MODELS)
def test_the_tower_makes_of_kept_patches_what_it_makes_when_the_others_are_hidden(name: str) -> None:
    tiny = family(name)
    model, inputs = tiny.model, tiny.make_inputs(BATCHES["padded"], seed=7)

    def embeddings() -> Tensor:
        language = model.model.text_model if hasattr(model.model, "text_model") else model.model.language_model
        return taken(language, lambda _, kwargs: kwargs["inputs_embeds"], lambda: model(**inputs))[0]

    plainly = embeddings()
    with vtprune.prune(model, {"stages": RECIPES["uneven"]}) as run:
        pruned = embeddings()
    with reference_tower(model, variant(MODELS[name][0]).family, run.report):
        expected = embeddings()
    for sample, layout in enumerate(run.report.layouts):
        kept = layout.positions[run.report.kept(0, sample)]
        assert len(kept) < layout.vision or not layout.vision
        if layout.vision:
            assert distance(pruned[sample, kept], expected[sample, kept]) < TOLERANCE
            assert distance(pruned[sample, kept], plainly[sample, kept]) > 100 * TOLERANCE


@pytest.mark.parametrize(("name", "batch"), matrix(MODELS, BATCHES))
def test_keeping_all_changes_nothing(name: str, batch: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    stage = {"site": "vision.layers[1]", **RANDOM, "budget": 1.0}
    logits, expected = plain(name, batch)
    with vtprune.prune(model, {"stages": [stage, {**stage, "reducer": "merge"}]}):
        assert torch.equal(model(**inputs).logits, logits)
        generated = generate(model, inputs)
    assert torch.equal(generated.tokens, expected.tokens)
    assert torch.equal(generated.logits, expected.logits)


@pytest.mark.parametrize(
    ("name", "recipe"),
    matrix(("llava-sdpa", "llava-eager", "internvl-sdpa"), ("uneven", "features", "then_language_model")),
)
def test_a_sample_does_not_depend_on_its_batch_mates(name: str, recipe: str) -> None:
    tiny, images = family(name), BATCHES["padded"]
    with vtprune.prune(tiny.model, {"stages": RECIPES[recipe]}) as run:
        together, batch = generate(tiny.model, inputs_of(name, "padded"), 8), run.report
        for sample, count in enumerate(images):
            if not count:
                continue
            alone = generate(tiny.model, tiny.make_inputs((count,), seed=sample), 8)
            assert torch.equal(alone.tokens[0], together.tokens[sample])
            assert distance(alone.logits[:, 0], together.logits[:, sample]) < TOLERANCE
            own = [event.to_dict() for event in batch.events if event.sample == sample]
            assert [event.to_dict() | {"sample": sample} for event in run.report.events] == own
    counts = {event.realised for event in batch.stage_events(0)}
    assert recipe == "features" or len(counts) > 2, "images keep different numbers"


@pytest.mark.parametrize("name", ["llava-sdpa", "internvl-sdpa"])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_beams_and_several_sequences(name: str, options: dict[str, Any]) -> None:
    """One image a sample: transformers up to 5.17 mixes the images of beams up where samples hold several."""
    tiny, stages = family(name), RECIPES["then_language_model"]
    splits = {"splits": [(1, 1), (1, 1)]} if name.startswith("internvl") else {}
    inputs = tiny.make_inputs((1, 1), seed=3, **splits)
    with vtprune.prune(tiny.model, {"stages": stages}) as run:
        generated, report = generate(tiny.model, inputs, 8, **options), run.report
    with reference(name, report, inputs):
        expected = generate(tiny.model, inputs, 8, **options)
    assert torch.equal(generated.tokens, expected.tokens)
    assert distance(generated.logits, expected.logits) < TOLERANCE
    assert len(report.layouts) == 2
    assert distance(generated.logits, generate(tiny.model, inputs, 8, **options).logits) > POWER


@pytest.mark.parametrize(
    ("name", "recipe"),
    [*matrix(("llava-sdpa", "llava-eager"), {**RECIPES, **DEEP}), *matrix(("internvl-eager",), RECIPES)],
)
def test_flops_count_what_each_layer_computed(name: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, "padded")
    layers = vision_layers(model, variant(MODELS[name][0]).family)
    computed: list[list[int]] = [[] for _ in layers]
    with ExitStack() as stack, vtprune.prune(model, {"stages": {**RECIPES, **DEEP}[recipe]}) as run:
        for layer, module in enumerate(layers):

            def see(_: object, args: Any, output: Tensor, widths: list[int] = computed[layer]) -> None:
                widths.extend([output.shape[1]] * output.shape[0])

            stack.callback(module.mlp.register_forward_hook(see).remove)
        model(**inputs)
        report = run.report
    images, length = (
        sum(len(layout.segments) for layout in report.layouts),
        1 + (8 if name.startswith("internvl") else 4) ** 2,
    )
    linear = sum(2 * module.weight.numel() for module in layers[0].modules() if isinstance(module, torch.nn.Linear))
    width = model.config.vision_config.hidden_size
    work = [sum(n * linear + 4 * n * n * width for n in widths) for widths in computed]
    full = len(layers) * images * (length * linear + 4 * length**2 * width)
    parts = report.flops_parts
    assert parts["vision_full"] - parts["vision"] == full - sum(work)
    assert parts["vision"] < parts["vision_full"]
    assert report.flops_full - report.flops == sum(
        parts[f"{part}_full"] - parts[part] for part in ("vision", "prefill", "decode")
    )


@pytest.mark.parametrize("recipe", ["one", "uneven", "everywhere"])
def test_flops_are_those_of_the_counter(recipe: str) -> None:
    model, inputs = family("llava-eager").model, inputs_of("llava-eager", "padded")
    with vtprune.prune(model, {"stages": {**RECIPES, **DEEP}[recipe]}) as run, FlopCounterMode(display=False) as count:
        model(**inputs)
    reading = 1.05 if recipe == "everywhere" else 1.01  # attention read beside the kernel is counted by PyTorch only
    assert run.report.flops * 0.99 < count.get_total_flops() < run.report.flops * reading
