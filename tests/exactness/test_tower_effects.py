"""What stages inside the vision tower do besides dropping: merge, re-index, read attention, carry gradients."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.exactness.helpers import (
    POWER,
    TOLERANCE,
    Spy,
    Stages,
    assert_agree,
    distance,
    generate,
    masks_of,
    spied,
    taken,
)
from tests.exactness.manual import choosing, decode_by_hand, prompt_states
from tests.exactness.test_tower_sites import LLAVA, MODELS, RANDOM, UNEVEN, family, inputs_of
from tests.robustness.test_gradients import Checkpointing, Counter, assert_same, loss_and_gradients
from vtprune.core.signals import Need
from vtprune.testing.hidden_patches import PATCHES, columns, reference_tower, vision_layers
from vtprune.testing.models import IMAGE, Tiny, tiny_llava
from vtprune.testing.reference import MaskedReference


def averaged(features: Tensor, kept: list[int], sizes: list[float], by_size: bool) -> tuple[Tensor, list[float]]:
    """New features of the kept tokens and how many tokens each stands for, by loops over pairs."""
    groups = {token: [token] for token in kept}
    for token in range(len(features)):
        if token not in groups:
            alike = [float(torch.cosine_similarity(features[token], features[other], dim=0)) for other in kept]
            groups[kept[alike.index(max(alike))]].append(token)
    means = []
    for group in groups.values():
        weights = [sizes[token] if by_size else 1.0 for token in group]
        total = sum((w * features[token] for w, token in zip(weights, group, strict=True)), torch.zeros(1))
        means.append(total / sum(weights))
    return torch.stack(means), [sum(sizes[token] for token in group) for group in groups.values()]


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("name", ["llava-sdpa", "llava-eager", "internvl-sdpa"])
def test_merging_equals_plain_means(name: str, by_size: bool) -> None:
    """The tower is run layer by layer, image by image, on shortened sequences; what it makes is put where the projector
    reads, and the language model's reference hides the rest."""
    kind, inputs, model = MODELS[name][0], inputs_of(name, "padded"), family(name).model
    reducer = {"name": "merge", "weighting": "size" if by_size else "mean"}
    acting = (1, 3) if kind == "llava" else (1, 2)
    stages: Stages = [
        {"site": f"vision.layers[{layer}]", **UNEVEN, "reducer": reducer, **budget}
        for layer, budget in zip(acting, ({}, {"scorer": "random", "selector": "top_k", "budget": 0.2}), strict=True)
    ]
    with vtprune.prune(model, {"stages": stages}) as run:
        generated, report = generate(model, inputs, 8), run.report
    layers = vision_layers(model, kind)
    entering = taken(layers[0], lambda args, kwargs: args[0], lambda: model(**inputs))[0]
    made, image = [], 0
    for sample, layout in enumerate(report.layouts):
        kept = [set(report.kept(stage, sample)) for stage in (0, 1)]
        for segment in layout.segments:
            hidden, alive, sizes = entering[image], list(range(len(segment))), [1.0] * len(segment)
            for layer, module in enumerate(layers):
                if layer in acting:
                    chosen = [t for t in alive if segment.start + t in kept[acting.index(layer)]]
                    rows = torch.tensor([PATCHES[kind](token, columns(segment)) for token in alive])
                    index = [alive.index(token) for token in chosen]
                    if len(index) < len(alive):
                        means, sizes = averaged(hidden[rows].flatten(1), index, sizes, by_size)
                        hidden = hidden.clone()
                        hidden[rows[index]] = means.view(len(index), rows.shape[1], -1)
                    alive = chosen
                kept_rows = {row for token in alive for row in PATCHES[kind](token, columns(segment))}
                stay = sorted({0, *kept_rows})
                hidden = torch.zeros_like(hidden).index_copy(0, torch.tensor(stay), _run(module, hidden[stay]))
                if layer == len(layers) - 2 and kind == "llava":
                    break
            made.append(hidden)
            image += 1
    language = MaskedReference(model, *masks_of(report, inputs["input_ids"].shape[1]))
    with language, _made_by(layers[-2 if kind == "llava" else -1], torch.stack(made)):
        expected = generate(model, inputs, 8)
    assert_agree(generated, expected)
    with vtprune.prune(model, {"stages": [{**stage, "reducer": "drop"} for stage in stages]}):
        dropped = generate(model, inputs, 8)
    assert distance(generated.logits[:, 0], dropped.logits[:, 0]) > POWER, "merging shows"


def _run(layer: Any, hidden: Tensor) -> Tensor:
    output = layer(hidden[None], None) if hasattr(layer, "self_attn") else layer(hidden[None])
    return output[0]


def _made_by(layer: torch.nn.Module, output: Tensor) -> Any:
    """Let a layer return a given output, before transformers' own hooks record it."""
    stack = ExitStack()
    stack.callback(layer.register_forward_hook(lambda *_: output, prepend=True).remove)
    return stack


def test_sizes_reach_the_language_model() -> None:
    """A later merge by size weighs a token by what the tower has merged into it."""
    name = "llava-sdpa"
    model, inputs = family(name).model, inputs_of(name, "padded")
    tower = {"site": "vision.layers[1]", **RANDOM, "budget": 0.5, "reducer": "merge"}
    found = []
    for weighting in ("mean", "size"):
        later = {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.2}
        with vtprune.prune(model, {"stages": [tower, {**later, "reducer": {"name": "merge", "weighting": weighting}}]}):
            found.append(model(**inputs).logits)
    assert distance(*found) > 100 * TOLERANCE


@pytest.mark.parametrize("name", LLAVA)
def test_reindexing_closes_the_gaps(name: str) -> None:
    """The same tokens, dropped before the language model with and without new positions."""
    model, inputs = family(name).model, inputs_of(name, "single")
    stage = {"site": "vision.layers[1]", **RANDOM, "budget": 0.5}
    with vtprune.prune(model, {"stages": [{**stage, "positions": "reindex"}]}) as run:
        generated = generate(model, inputs, 8)
    kept = run.report.kept()
    with vtprune.prune(model, {"stages": [stage]}):
        retained = generate(model, inputs, 8)
    with reference_tower(model, "llava", run.report):
        (prompt,) = prompt_states(model, inputs)
        at = (inputs["input_ids"][0] == IMAGE).nonzero().squeeze(-1)
        gone = set(at.tolist()) - set(at[kept].tolist())
        stay = torch.tensor([row for row in range(inputs["input_ids"].shape[1]) if row not in gone])
        expected = decode_by_hand(model, prompt, 8, choosing(0, inputs["input_ids"].shape[1], stay, reindex=True))
    assert_agree(generated, expected)
    assert distance(generated.logits, retained.logits) > POWER


@pytest.mark.parametrize("name", ["llava-sdpa", "llava-eager"])
def test_attention_and_features_are_those_of_what_is_left(name: str) -> None:
    """What a second stage reads, against attention computed by hand on the shortened sequence."""
    model, inputs = family(name).model, inputs_of(name, "padded")
    cls, received = Need("vision_attention", "cls", 2), Need("vision_attention", "received", 2)
    before = [{"site": "vision.layers[1]", **UNEVEN}]
    module = model.model.vision_tower.encoder.layers[2].self_attn
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    with ExitStack() as stack:
        for projection, found in ((module.q_proj, queries), (module.k_proj, keys)):

            def see(_: object, args: Any, output: Tensor, found: list[Tensor] = found) -> None:
                found.extend(output)

            stack.callback(projection.register_forward_hook(see).remove)
        _, report = spied(model, inputs, "vision.layers[3]", cls, received, before=before)
    spy = {tuple(alive.tolist()): values for _, alive, values in Spy.seen}
    images = [
        tuple(t - segment.start for t in report.kept(0, sample) if segment.start <= t < segment.stop)
        for sample, layout in enumerate(report.layouts)
        for segment in layout.segments
    ]
    assert sorted(map(tuple, (alive.tolist() for _, alive, _ in Spy.seen))) == sorted(images)
    checked = 0
    for query, key in zip(queries, keys, strict=True):
        heads = [each.view(len(query), module.num_heads, -1).transpose(0, 1) for each in (query, key)]
        weights = (heads[0] @ heads[1].transpose(1, 2) * module.scale).softmax(-1)
        same = [v for alive, v in spy.items() if len(alive) == len(query) - 1 and _close(v[cls], weights[:, 0, 1:])]
        assert len(same) == 1
        assert distance(same[0][received], weights[:, 1:, 1:].mean(1)) < TOLERANCE
        checked += 1
    assert checked == len(images)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and distance(one, other) < TOLERANCE


TRAINED: dict[str, Stages] = {
    "one": [{"site": "vision.layers[1]", **RANDOM, "budget": 0.5}],
    "uneven": [{"site": "vision.layers[1]", **UNEVEN}, {"site": "vision.layers[3]", **RANDOM, "budget": 0.2}],
    "merge": [{"site": "vision.layers[1]", **UNEVEN, "reducer": "merge"}],
    "merge_twice": [
        {"site": f"vision.layers[{layer}]", **RANDOM, "budget": share, "reducer": "merge"}
        for layer, share in ((2, 0.6), (2, 0.4), (3, 0.2))
    ],
}


@pytest.fixture(scope="module")
def trained() -> Tiny:
    """A model of its own whose parameters want gradients."""
    tiny = tiny_llava.__wrapped__(vision_layers=5)
    tiny.model.requires_grad_(True)
    with torch.no_grad():
        tiny.model(**tiny.make_inputs((1,)))
    return tiny


@pytest.mark.parametrize("recipe", ["one", "uneven"])
@torch.enable_grad()
def test_gradients_equal_those_of_the_reference(trained: Tiny, recipe: str) -> None:
    inputs, model = trained.make_inputs((1, 2)), trained.model
    with vtprune.prune(model, {"stages": TRAINED[recipe]}) as run:
        pruned = loss_and_gradients(model, inputs)
    full = loss_and_gradients(model, inputs)
    language = MaskedReference(model, *masks_of(run.report, inputs["input_ids"].shape[1]))
    with reference_tower(model, "llava", run.report), language:
        expected = loss_and_gradients(model, inputs)
    assert_same(pruned, expected, atol=1e-5)
    assert (full[0] - pruned[0]).abs() > 1e-3
    assert all(pruned[1][name].abs().max() > 1e-4 for name in pruned[1] if "layers.2.mlp.fc1.weight" in name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("recipe", TRAINED)
@torch.enable_grad()
def test_checkpointing_changes_no_gradient(trained: Tiny, recipe: str, reentrant: bool) -> None:
    """Two forwards before one backward: computing the first one again must still prune as the first one did."""
    prompts, model = [trained.make_inputs((1, 2)), trained.make_inputs((1, 2))], trained.model
    prompts[1]["pixel_values"] = prompts[1]["pixel_values"].flip(-1) * 1.5
    with vtprune.prune(model, {"stages": TRAINED[recipe]}) as run:
        expected = loss_and_gradients(model, *prompts)
        calls = Counter(model.model.vision_tower.encoder.layers[3].mlp)
        with calls:
            loss_and_gradients(model, *prompts)
        without = calls.seen
        with Checkpointing(model, reentrant), calls:
            seen = loss_and_gradients(model, *prompts)
    assert calls.seen == 3 * without, "the layer was not computed again, so the test shows nothing"
    assert run.reports[-2].kept() != run.reports[-1].kept()
    assert_same(seen, expected, atol=1e-6)
