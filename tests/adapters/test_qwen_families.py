"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-V: towers are read right, and what is removed equals the masked reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.adapters.packed import (
    CASES,
    NAMES,
    call_of,
    kernel_calls,
    made_of,
    modalities,
    prompt,
    tiny,
)
from tests.exactness.helpers import (
    POWER,
    TOLERANCE,
    Generated,
    Stages,
    assert_agree,
    distance,
    generate,
    reference,
    spied,
    survivors,
    taken,
)
from vtprune.core.engine.tower import tokens_of
from vtprune.core.lookup import locate
from vtprune.core.signals import Need
from vtprune.testing.models import vision_mask

CLOSE = 2e-6
RAGGED = {
    "scorer": {"name": "attention", "head_reduction": "none"},
    "selector": {"name": "top_p", "p": 0.4},
}
KEEP: dict[str, Stages] = {
    "vision": [{"site": "vision.output", "scorer": "random", "budget": 1.0}],
    "projector": [{"site": "projector.output", "scorer": "random", "budget": 1.0}],
    "layer": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 1.0}],
    "kv": [{"site": "llm.layers[0].kv", "scorer": "attention", "budget": 1.0}],
}
REMOVE: dict[str, Stages] = {
    "projector": [{"site": "projector.output", "scorer": "random", "budget": 0.4}],
    "layer": [{"site": "llm.layers[1]", "scorer": "attention", "budget": 0.3}],
    "kv": [{"site": "llm.layers[1:3].kv", **RAGGED}],
    "everywhere": [
        {"site": "vision.output", "selector": "max_min", "budget": 0.8},
        {"site": "llm.layers[1]", "scorer": {"name": "attention", "query": "text"}, "budget": 0.5},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.25},
        {"site": "llm.layers[2:].kv", **RAGGED},
    ],
}
TOWERS = (*NAMES, "qwen3_5")
SAME_MODELS = ("glm46v", "qwen3_vl-experts", "glm4v-experts")  # built of parts that other variants test already


def is_slow(name: str, attn: str, batch: str, recipe: str) -> bool:
    """By default: two recipes everywhere, and the others on the most mixed batch, for each model that differs."""
    main = recipe in ("layer", "everywhere")
    if name in SAME_MODELS:
        return attn == "eager" or batch != "images" or not main
    most = "images" if name == "glm4v" else "mixed"
    return attn == "eager" or not (main or batch == most)


def cases(stages: dict[str, Stages]) -> list[Any]:
    """Every combination; long ones carry the marker."""
    return [
        pytest.param(
            *(name, attn, batch, recipe),
            id=f"{name}-{attn}-{batch}-{recipe}",
            marks=[pytest.mark.slow] * is_slow(name, attn, batch, recipe),
        )
        for attn in ("sdpa", "eager")
        for name, batch in CASES
        for recipe in stages
    ]


@cache
def plain(name: str, attn: str, batch: str) -> tuple[Tensor, Generated]:
    model, inputs = tiny(name, attn).model, prompt(name, batch)
    with torch.no_grad():
        return model(**inputs).logits, generate(model, inputs)


# -- the tower -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in TOWERS for kind in ("image", "video")])
def test_a_token_is_made_of_the_rows_it_depends_on(name: str, kind: Any) -> None:
    model = tiny(name).model
    if kind == "image":
        sizes = [(1, 6, 8), (1, 4, 6)]
        inputs = tiny(name).make_inputs((2,), grids=sizes)
    else:
        sizes = [(2, 4, 6), (3, 4, 4)]
        inputs = tiny(name).make_inputs((0,), videos=(2,), video_grids=sizes)
    adapter, call = locate(model).adapter, call_of(model, inputs, kind)
    images = adapter.images(model, call)
    assert [image.grid for image in images] == [(t, h // 2, w // 2) for t, h, w in sizes]
    assert [image.tokens for image in images] == [t * h * w // 4 for t, h, w in sizes]
    assert adapter.tower_rows is not None
    assert adapter.projector_rows is not None
    for rows, module in ((adapter.tower_rows, "blocks.0"), (adapter.projector_rows, "merger")):
        for mine, theirs in zip(rows(model, call, images), made_of(model, inputs, kind, module), strict=True):
            assert torch.equal(mine.sort(1).values, theirs)


@pytest.mark.parametrize("name", TOWERS)
def test_the_projector_on_a_tokens_rows_makes_that_token(name: str) -> None:
    model, inputs = tiny(name).model, prompt(name, "images")
    parts, call = locate(model), call_of(model, inputs, "image")
    seen = taken(model.model.visual.merger, lambda args, _: args[0], lambda: call_of(model, inputs, "image"))
    images = parts.adapter.images(model, call)
    assert parts.adapter.projector_rows is not None
    assert parts.adapter.project is not None
    for rows, features in zip(parts.adapter.projector_rows(model, call, images), call.features, strict=True):
        some = torch.arange(len(rows)).flip(0)[::2]
        assert distance(parts.adapter.project(model, tokens_of(seen, rows[some])), features[some]) < CLOSE


@pytest.mark.parametrize(
    ("name", "batch"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in SAME_MODELS)) for case in CASES]
    + [("qwen3_5", "mixed")],
)
def test_vision_attention_and_features_are_the_towers(name: str, batch: str) -> None:
    """What the rows of a frame (or window) pay to a token's patches, on average; the eager tower is the reference."""
    model, inputs, eager = tiny(name).model, prompt(name, batch), tiny(name, "eager").model
    depth = len(model.model.visual.blocks)
    needs = [Need("vision_attention", "received", layer) for layer in range(-1, depth - 1)] + [Need("features")]
    seen, report = spied(model, inputs, "vision.output", *needs)
    expected: dict[str, list[list[Tensor]]] = {}
    for kind in modalities(inputs):
        sequences = [torch.cat([w.mean(1) for w in layer], -1) for layer in kernel_calls(eager, inputs, kind)]
        sequences = [sequences[need.layer] for need in needs if need.layer is not None]
        images = made_of(model, inputs, kind, "blocks.0")
        values = [[sequence[:, rows].mean(-1) for sequence in sequences] for rows in images]
        made: list[Tensor] = []
        handle = model.model.visual.merger.register_forward_pre_hook(
            lambda module, args, made=made: made.append(args[0])
        )
        call_of(model, inputs, kind)
        handle.remove()
        for value, rows in zip(values, made_of(model, inputs, kind, "merger"), strict=True):
            value.append(made[0][rows].mean(1).T)
        expected[kind] = values
    for sample, layout in enumerate(report.layouts):
        own = [expected[segment.kind].pop(0) for segment in layout.segments]
        for slot, need in enumerate(needs if own else []):
            value = seen[sample][1][need]
            value = value.T if need.kind == "features" else value
            assert value.std() > 1e-3
            assert distance(value, torch.cat([image[slot] for image in own], -1)) < CLOSE
    assert not any(expected.values())


@pytest.mark.parametrize(("name", "batch"), [*CASES, ("qwen3_5", "mixed")])
def test_windows_are_the_lengths_of_the_kernels_calls(name: str, batch: str) -> None:
    model, inputs = tiny(name).model, prompt(name, batch)
    adapter = locate(model).adapter
    assert adapter.windows is not None
    for kind in modalities(inputs):
        call = call_of(model, inputs, kind)
        calls = kernel_calls(tiny(name, "eager").model, inputs, kind)
        lengths = [[len(weights[0]) for weights in layer] for layer in calls]
        assert adapter.windows(model, call, adapter.images(model, call)) == lengths


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "qwen2_vl"])
def test_mergers_are_counted_once_per_token(name: str) -> None:
    """FLOPs by hand: patches through embedding and blocks, tokens through whatever merges them."""
    model, inputs = tiny(name).model, tiny(name).make_inputs((1,), grids=[(1, 8, 8)])
    patches, tokens, visual = 64, 16, model.model.visual
    weights = [(n, p.numel()) for n, p in visual.named_parameters() if p.dim() >= 2 and "pos" not in n]
    merging = sum(count for n, count in weights if "merger" in n or "downsample" in n)
    rest = sum(count for _, count in weights) - merging
    attention = 4 * patches**2 * sum(block.attn.qkv.in_features for block in visual.blocks)
    with vtprune.prune(model, {"stages": KEEP["projector"]}) as run:
        model(**inputs)
    assert run.report.flops_parts["vision"] == 2 * (patches * rest + tokens * merging) + attention


# -- the language model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "attn", "batch", "recipe"), cases(KEEP))
def test_keeping_everything_changes_no_bit(name: str, attn: str, batch: str, recipe: str) -> None:
    model, inputs = tiny(name, attn).model, prompt(name, batch)
    with vtprune.prune(model, {"stages": KEEP[recipe]}) as run, torch.no_grad():
        logits, generated = model(**inputs).logits, generate(model, inputs)
        assert len(run.reports) == 2
    assert all(len(event.kept[0]) == run.report.layouts[event.sample].vision for event in run.report.events)
    expected, unhooked = plain(name, attn, batch)
    assert torch.equal(logits, expected)
    assert torch.equal(generated.logits, unhooked.logits)
    assert torch.equal(generated.tokens, unhooked.tokens)


@pytest.mark.parametrize(("name", "attn", "batch", "recipe"), cases(REMOVE))
def test_removal_equals_masking(name: str, attn: str, batch: str, recipe: str) -> None:
    model, inputs = tiny(name, attn).model, prompt(name, batch)
    with vtprune.prune(model, {"stages": REMOVE[recipe]}) as run, torch.no_grad():
        logits, generated = model(**inputs).logits, generate(model, inputs)
        report = run.report
    with reference(model, report, inputs["input_ids"].shape[1]), torch.no_grad():
        expected_logits, expected = model(**inputs).logits, generate(model, inputs)
    kept = survivors(report, inputs)
    assert distance(logits[kept], expected_logits[kept]) < TOLERANCE
    assert_agree(generated, expected)
    effect = (generated.logits - plain(name, attn, batch)[1].logits).abs().amax((0, 2))
    has_vision = vision_mask(inputs).any(-1)
    assert bool((effect[has_vision] > POWER).all())
    assert bool((effect[~has_vision] < TOLERANCE).all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recipe", ["plphp", "greedyprune", "fastv", "divprune"])
def test_named_recipes_run(name: str, recipe: str) -> None:
    model, inputs = tiny(name).model, prompt(name, "images")
    with vtprune.prune(model, recipe) as run:
        generated = generate(model, inputs, 4)
    assert generated.logits.isfinite().all()
    assert any(
        len(kept) < run.report.layouts[event.sample].vision for event in run.report.events for kept in event.kept
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_videos_frames_are_one_segment_although_text_stands_between_them(name: str) -> None:
    model = tiny(name).model
    inputs = tiny(name).make_inputs((0,), videos=(1,), video_grids=[(3, 4, 6)])
    with vtprune.prune(model, {"stages": [{"site": "projector.output", "scorer": "uniform_grid", "budget": 6}]}) as run:
        model(**inputs)
    layout = run.report.layouts[0]
    assert [(segment.kind, segment.grid) for segment in layout.segments] == [("video", (3, 2, 3))]
    runs = 1 + int((layout.positions.diff() > 1).sum())
    assert runs == (1 if name in ("qwen2_vl", "qwen2_5_vl") else 3)
    assert set(layout.coordinates()[run.report.kept()][:, 1].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("name", "batch"), [case for case in CASES if case[0] not in SAME_MODELS])
def test_images_that_stand_twice_are_encoded_once(name: str, batch: str) -> None:
    model, inputs = tiny(name).model, prompt(name, batch)
    twice = {key: torch.cat([value, value]) for key, value in inputs.items()}
    logits, events, patches = [], [], []
    for share in (False, True):
        with vtprune.prune(model, {"stages": REMOVE["layer"]}, share_images=share) as run, torch.no_grad():
            rows = taken(
                model.model.visual.blocks[0],
                lambda args, _: len(args[0]),
                lambda: logits.append(model(**twice).logits),
            )
            events.append([event.to_dict() for event in run.report.events])
        patches.append(sum(rows))
    assert patches == [2 * patches[1], sum(len(pixels) for name, pixels in inputs.items() if "pixel" in name)]
    assert events[0] == events[1]
    assert distance(logits[0], logits[1]) < TOLERANCE
