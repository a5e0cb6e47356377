"""`reducer: merge` equals means computed in plain loops, put into layers that are run by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.exactness.helpers import BATCHES, POWER, Stages, assert_agree, distance, family, inputs_of, matrix, run
from tests.exactness.manual import State, choosing, decode_by_hand, only_row, prompt_states
from tests.exactness.tower import image_features, project
from vtprune.core.report import Report
from vtprune.testing.models import Inputs, vision_mask

STEPS = 8
RANDOM = {"scorer": "random"}
SIZED = {"name": "merge", "weighting": "size"}
RECIPES: dict[str, Stages] = {
    "vision": [{"site": "vision.output", **RANDOM, "budget": 0.3, "reducer": "merge"}],
    "projector": [{"site": "projector.output", **RANDOM, "budget": 0.3, "reducer": "merge"}],
    "layer": [{"site": "llm.layers[2]", "scorer": "attention", "budget": 0.3, "reducer": "merge"}],
    "twice": [
        {"site": "projector.output", **RANDOM, "budget": 0.6, "reducer": "merge"},
        {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.25, "reducer": "merge"},
    ],
    "twice_by_size": [
        {"site": "projector.output", **RANDOM, "budget": 0.6, "reducer": SIZED},
        {"site": "llm.layers[1]", "scorer": "attention", "budget": 0.25, "reducer": SIZED},
    ],
    "drop_then_merge": [
        {"site": "projector.output", **RANDOM, "budget": 0.6},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.25, "reducer": "merge", "positions": "reindex"},
    ],
}


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


def betweens(model: object, report: Report, inputs: Inputs, sample: int) -> Callable[[int, State], State]:
    real = inputs["attention_mask"][sample].bool()
    at = vision_mask(inputs)[sample, real].nonzero().squeeze(-1)
    length, images = int(real.sum()), [int(row.sum()) for row in vision_mask(inputs)]
    own = slice(sum(images[:sample]), sum(images[: sample + 1]))

    def between(layer: int, state: State) -> State:
        nonlocal alive, rows, sizes, length
        if layer == 0:
            alive, rows, sizes = list(range(len(at))), at.tolist(), [1.0] * len(at)
            length = int(real.sum())
        for index, stage in enumerate(report.recipe.stages):
            if stage.site.layers(report.depth)[0] != layer or not alive:
                continue
            chosen = report.kept(index, sample)
            kept = [alive.index(token) for token in chosen]
            hidden, positions = state[0].clone(), state[1]
            if type(stage.reducer).__name__ == "Merge":
                by_size = stage.reducer.model_dump()["weighting"] == "size"
                features = hidden[0, rows]
                if stage.site.kind == "vision":
                    features = torch.cat(image_features(model, inputs))[own]
                means, grown = averaged(features, kept, sizes, by_size)
                hidden[0, [rows[i] for i in kept]] = project(model, means) if stage.site.kind == "vision" else means
            else:
                grown = [sizes[i] for i in kept]
            gone = {rows[i] for i in range(len(rows)) if i not in kept}
            stay = torch.tensor([row for row in range(length) if row not in gone])
            state = choosing(layer, length, stay, reindex=stage.positions == "reindex")(layer, (hidden, positions))
            rows = [stay.tolist().index(rows[i]) for i in kept]
            alive, sizes, length = chosen, grown, len(stay)
        return state

    alive: list[int] = []
    rows: list[int] = []
    sizes: list[float] = []
    return between


@pytest.mark.parametrize(
    ("name", "batch", "recipe"),
    matrix(
        ("llava-sdpa", "llava-eager", "qwen-sdpa", "qwen-eager"),
        BATCHES,
        RECIPES,
        slow=lambda name, batch, recipe: batch != "padded" or "eager" in name,
    ),
)
def test_merging_equals_plain_means(name: str, batch: str, recipe: str) -> None:
    model, inputs = family(name).model, inputs_of(name, batch)
    generated, report = run(name, inputs, RECIPES[recipe], STEPS)
    for sample, prompt in enumerate(prompt_states(model, inputs)):
        expected = decode_by_hand(model, prompt, STEPS, betweens(model, report, inputs, sample))
        assert_agree(only_row(generated, sample), expected)

    dropped, _ = run(name, inputs, [{**stage, "reducer": "drop"} for stage in RECIPES[recipe]], STEPS)
    assert distance(generated.logits[:, 0], dropped.logits[:, 0]) > POWER, "merging shows"


@pytest.mark.parametrize("name", ["llava-sdpa", "qwen-sdpa"])
def test_sizes_show(name: str) -> None:
    inputs = inputs_of(name, "padded")
    plain, _ = run(name, inputs, RECIPES["twice"], 1)
    by_size, _ = run(name, inputs, RECIPES["twice_by_size"], 1)
    assert distance(plain.logits[0, 0], by_size.logits[0, 0]) > 100 * 1e-5
