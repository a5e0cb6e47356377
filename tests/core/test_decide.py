"""Deciding: buckets, signals, targets per sample, segments, and what is asked of each component."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import vtprune
from tests.robustness.scenes import DROP, EVICT, Callback, recipe
from vtprune.core.component import Allocation, AllocationRequest, Allocator, Candidates, Selector
from vtprune.core.signals import Need, Signals
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl, vision_mask

FEATURES = Need("features")


def watching(seen: list[Any], reads: tuple[Need, ...], read: Callable[[Signals], Any]) -> Callback:
    """A scorer that notes something about every bucket and ranks by index."""

    def score(signals: Signals) -> Tensor:
        seen.append(read(signals))
        return -signals.alive.float()

    return Callback(reads=reads, of=score)


def run_with(tiny: Tiny, images: tuple[int, ...], *stages: dict[str, Any], **options: Any) -> vtprune.Report:
    with vtprune.prune(tiny.model, recipe(*stages)) as run, torch.no_grad():
        tiny.model(**tiny.make_inputs(images, **options))
    return run.report


def test_samples_with_equally_many_survivors_are_decided_together_and_unpadded() -> None:
    seen: list[Any] = []
    scorer = watching(seen, (FEATURES,), lambda s: (s.batch, s.vision, tuple(s.features().shape)))
    run_with(tiny_llava(), (1, 2, 1, 0, 2), {**DROP, "scorer": scorer})
    assert sorted(seen) == [(2, 16, (2, 16, 64)), (2, 32, (2, 32, 64))], "a sample without an image asks nobody"


def test_a_sample_without_an_image_keeps_all_its_text() -> None:
    report = run_with(tiny_llava(), (1, 0), {**DROP, "budget": 0.0})
    assert report.vision_tokens == [[16, 0, 0, 0], [0, 0, 0, 0]]
    assert report.kept(sample=1) == []


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl])
def test_features_are_the_hidden_states_of_the_survivors(build: Callable[..., Tiny]) -> None:
    tiny, seen, entering = build(), [], []
    handle = tiny.model.get_decoder().layers[2].register_forward_pre_hook(lambda m, args: entering.append(args[0]))
    first = {**DROP, "scorer": Callback(reads=(FEATURES,), of=lambda s: s.features()[..., 0])}
    second = {
        **DROP,
        "site": "llm.layers[2]",
        "budget": 1,
        "scorer": watching(seen, (FEATURES,), lambda s: (s.features(), s.alive)),
    }
    try:
        report = run_with(tiny, (1,), first, second)
    finally:
        handle.remove()
    ((features, alive),) = seen
    kept = report.stage_events(0)[0].kept[0]
    assert torch.equal(alive[0], kept)
    mask = vision_mask(tiny.make_inputs((1,)))[0]
    gone = mask.nonzero()[:, 0][~torch.isin(torch.arange(int(mask.sum())), kept)]
    stays = torch.ones_like(mask)
    stays[gone] = False
    assert torch.equal(features[0], entering[0][0][mask[stays]])


def test_text_is_the_mean_of_the_chosen_tokens() -> None:
    tiny, seen, entering = tiny_llava(), [], []
    needs = tuple(Need("text", query) for query in ("last", "text", "text_after_vision"))
    scorer = watching(seen, needs, lambda s: [s.text(need.query) for need in needs])
    handle = tiny.model.get_decoder().layers[1].register_forward_pre_hook(lambda m, args: entering.append(args[0]))
    try:
        run_with(tiny, (2, 1), {**DROP, "scorer": scorer, "budget": 1.0})
    finally:
        handle.remove()
    inputs = tiny.make_inputs((2, 1))
    for found, sample in zip(seen, (0, 1), strict=True):
        real, vision = inputs["attention_mask"][sample].bool(), vision_mask(inputs)[sample]
        hidden, text = entering[0][sample], real & ~vision
        after = text & (torch.arange(len(text)) > vision.nonzero().max())
        expected = [hidden[-1], hidden[text].mean(0), hidden[after].mean(0)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[0], other)


def test_attention_and_keys_are_those_of_the_survivors_in_a_wider_layer() -> None:
    """A stage may read a layer that ran before another stage dropped tokens."""
    tiny, seen = tiny_llava(), []
    needs = (Need("attention", "last", 0),)
    probe = watching(seen, needs, lambda s: (s.attention("last", 0), s.alive))
    run_with(
        tiny,
        (1, 2),
        {**DROP, "scorer": watching(seen, needs, lambda s: (s.attention("last", 0), s.alive))},
        {**DROP, "site": "llm.layers[3]", "budget": 0.25, "scorer": probe},
    )
    (one, _), (two, _), (one_later, kept), (two_later, kept_two) = seen
    assert torch.equal(one_later[0], one[0][:, kept[0]])
    assert torch.equal(two_later[0], two[0][:, kept_two[0]])


class Watched(Allocator):
    """Uniform, and notes what it was asked."""

    note: Callable[[AllocationRequest], None]

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        self.note(request)
        assert request.target is not None
        counts = [min(size, int(request.target) // len(request.sizes)) for size in request.sizes]
        return Allocation(torch.tensor([counts] * signals.batch), {"asked": torch.full((signals.batch,), 7.0)})


def test_what_an_allocator_is_asked() -> None:
    seen: list[AllocationRequest] = []
    stages = [
        {**DROP, "budget": 10},
        {**DROP, "site": "llm.layers[2:]", "budget": 4, "scope": "image", "allocator": Watched(note=seen.append)},
    ]
    report = run_with(tiny_llava(), (2,), *stages)
    first, second = seen
    assert first.target == second.target == 4
    assert sum(first.sizes) == 10
    assert first.original == second.original == (16, 16)
    assert second.sizes == (2, 2)
    assert (first.layer, second.layer, first.layers, first.spans, first.depth) == (2, 3, (2, 3), (1, 1), 4)
    assert first.kv_heads is None
    assert [dict(event.diagnostics) for event in report.stage_events(1)] == [{"asked": 7.0}] * 2


def test_an_image_scope_ranks_each_image_by_itself() -> None:
    scorer = Callback(of=lambda s: s.alive.float())
    joint = run_with(tiny_llava(), (2,), {**DROP, "scorer": scorer, "budget": 8})
    each = run_with(tiny_llava(), (2,), {**DROP, "scorer": scorer, "budget": 8, "scope": "image"})
    assert joint.kept() == list(range(24, 32))
    assert each.kept() == [*range(12, 16), *range(28, 32)]


def test_every_sample_has_its_own_target() -> None:
    grids = [(1, 4, 4), (1, 8, 12), (1, 8, 8)]
    report = run_with(tiny_qwen2_5_vl(), (1, 1, 1), {**DROP, "budget": {"keep_ratio": 0.5}}, grids=grids)
    assert [row[-1] for row in report.vision_tokens] == [2, 12, 8]


class Rows(Selector):
    """Top k that notes its candidates."""

    note: Callable[[Candidates], None]

    def select(self, candidates: Candidates) -> Tensor:
        self.note(candidates)
        return torch.arange(candidates.vision) < candidates.counts[:, None]


@pytest.mark.parametrize(("head_scores", "rows"), [(True, 4), (False, 2)])
def test_a_cache_stage_chooses_per_head_only_where_something_differs_per_head(head_scores: bool, rows: int) -> None:
    seen: list[Candidates] = []
    scorer = {"name": "attention", "head_reduction": "none" if head_scores else "mean"}
    stage = {**EVICT, "site": "llm.layers[1].kv", "scorer": scorer, "selector": Rows(note=seen.append)}
    report = run_with(tiny_llava(), (1, 1), stage)
    assert [len(candidates.counts) for candidates in seen] == [rows]
    assert report.kv_tokens[0][1] == [8, 8]
    assert len(report.events[0].kept) == rows // 2


def test_protected_tokens_are_told_to_the_selector() -> None:
    seen: list[Candidates] = []
    first = {**DROP, "budget": 8, "scorer": Callback(of=lambda s: -s.alive.float()), "protect": [15]}
    second = {**DROP, "site": "llm.layers[2]", "budget": 4, "selector": Rows(note=seen.append), "protect": [0, 2, 9]}
    run_with(tiny_llava(), (1,), first, second)
    assert seen[0].protected.int().tolist() == [[1, 0, 1, 0, 0, 0, 0, 0]], "token 9 is gone, so nothing protects it"


def test_nothing_is_decided_twice_for_what_is_left_of_nothing() -> None:
    report = run_with(tiny_llava(), (1,), {**DROP, "budget": 0.0}, {**DROP, "site": "llm.layers[2]"})
    assert report.vision_tokens == [[16, 0, 0, 0]]
