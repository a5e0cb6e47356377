"""The recipe `plphp`: dense first token, heads with their own tokens, retention that follows the layer's attention."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import vtprune
from tests.exactness.helpers import Generated, family, generate, inputs_of, matrix, plain
from tests.exactness.test_cache import expected_lengths, lengths, slots_in_bytes
from vtprune.core.report import Report
from vtprune.testing.models import Inputs, vision_mask

RATE, DELTA = 0.4, 0.3
CHOSEN = ("llava-sdpa", "llava-eager", "qwen-sdpa", "qwen-eager")
ROUND_OFF = 1e-3


def gammas(name: str, inputs: Inputs) -> torch.Tensor:
    """The last token's attention to all vision tokens, mean over heads, from the eager model: ``[layer, batch]``."""
    eager = family(name.replace("sdpa", "eager")).model
    attentions = eager(**inputs, output_attentions=True).attentions
    seen = vision_mask(inputs).float()
    return torch.stack([torch.einsum("bhk,bk->bh", layer[:, :, -1], seen).mean(1) for layer in attentions])


def thresholds(found: torch.Tensor) -> tuple[float, float]:
    """alpha and beta in the widest gaps of the upper and lower half: all levels occur, and nothing nearly ties."""
    values = sorted(found[found > 0].tolist())
    middle = len(values) // 2

    def gap(part: list[float]) -> float:
        low, high = max(pairwise(part), key=lambda pair: pair[1] - pair[0])
        assert high - low > ROUND_OFF
        return (low + high) / 2

    return gap(values[middle:]), gap(values[: middle + 1])


def pruned(name: str, batch: str, steps: int = 4) -> tuple[Generated, Report, torch.Tensor, tuple[float, float]]:
    inputs = inputs_of(name, batch)
    found = gammas(name, inputs)
    alpha, beta = thresholds(found)
    changes = {"stages.0.allocator.alpha": alpha, "stages.0.allocator.beta": beta}
    with vtprune.prune(family(name).model, "plphp", **changes) as run:
        return generate(family(name).model, inputs, steps), run.report, found, (alpha, beta)


@pytest.mark.parametrize(("name", "batch"), matrix(CHOSEN, ("single", "two_images", "padded")))
def test_the_first_token_is_the_dense_models(name: str, batch: str) -> None:
    generated, *_ = pruned(name, batch, 20)
    _, unpruned = plain(name, batch)
    assert torch.equal(generated.logits[0], unpruned.logits[0])
    assert torch.equal(generated.tokens[:, 0], unpruned.tokens[:, 0])
    assert not torch.equal(generated.logits[1], unpruned.logits[1])


@pytest.mark.parametrize(("name", "batch"), matrix(CHOSEN, ("two_images", "padded")))
def test_retention_follows_the_layers_attention(name: str, batch: str) -> None:
    _, report, found, (alpha, beta) = pruned(name, batch)
    levels = set()
    assert len(report.events) == report.depth * len(report.layouts)
    for event in report.events:
        segments = report.layouts[event.sample].segments
        if not segments:
            continue
        gamma = float(found[event.layer, event.sample])
        assert event.diagnostics["vision_attention"] == pytest.approx(gamma, abs=1e-5)
        rate = RATE + DELTA if gamma >= alpha else RATE - DELTA if gamma < beta else RATE
        levels.add(rate)
        assert event.diagnostics["retention"] == pytest.approx(rate)
        for segment in segments:
            share = max(1, int(rate * len(segment) + 1e-9))
            for kept in event.kept:
                assert int(((kept >= segment.start) & (kept < segment.stop)).sum()) == share
    assert len(levels) == 3, "every level occurs"


@pytest.mark.parametrize("name", CHOSEN)
def test_heads_keep_as_many_but_not_the_same(name: str) -> None:
    _, report, _, _ = pruned(name, "padded")
    differing = 0
    for event in report.events:
        if report.layouts[event.sample].vision:
            assert len(event.kept) == report.kv_heads
            assert len(set(event.realised)) == 1
            differing += event.kept[0].tolist() != event.kept[1].tolist()
    assert differing > len(report.events) // 2


@pytest.mark.parametrize("name", CHOSEN)
def test_each_head_keeps_what_it_looks_at(name: str) -> None:
    """The kept tokens of an image are the highest by the mean attention of the query heads that share the KV head."""
    inputs = inputs_of(name, "padded")
    attentions = family(name.replace("sdpa", "eager")).model(**inputs, output_attentions=True).attentions
    _, report, _, _ = pruned(name, "padded")
    for event in report.events:
        layout = report.layouts[event.sample]
        rows = attentions[event.layer][event.sample, :, -1, layout.positions]
        shared = rows.unflatten(0, (report.kv_heads, -1)).mean(1)
        for segment in layout.segments:
            for head, kept in enumerate(event.kept):
                mask = torch.zeros(layout.vision, dtype=torch.bool)
                mask[kept] = True
                scores, mask = shared[head, segment.start : segment.stop], mask[segment.start : segment.stop]
                assert mask.all() or scores[mask].min() >= scores[~mask].max() - 1e-6


@pytest.mark.parametrize("name", CHOSEN)
def test_the_cache_falls_by_what_the_allocation_says(name: str) -> None:
    model, inputs = family(name).model, inputs_of(name, "padded")
    with vtprune.prune(model, "plphp") as run:
        cache = model(**inputs, use_cache=True).past_key_values
    held = expected_lengths(run.report, inputs)
    assert torch.equal(lengths(cache), held)
    assert run.report.kv_bytes == slots_in_bytes(model, int(held.sum()))
    padding = inputs["attention_mask"].numel() - int(inputs["attention_mask"].sum())
    evicted = sum(
        run.report.layouts[e.sample].vision - n for e in run.report.events for n in e.realised if len(e.kept) > 1
    )
    saved = run.report.kv_bytes_full - run.report.kv_bytes
    assert saved == slots_in_bytes(model, evicted + padding * run.report.depth * run.report.kv_heads)
