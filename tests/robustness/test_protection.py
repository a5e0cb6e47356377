"""Protected tokens and text survive, bad scores are refused, components cannot reach the model (invariants 3 and 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import vtprune
from tests.robustness.scenes import DROP, EVICT, INPUT_DROP, LAYERS, Callback, Constant, Hostile, logits, recipe, tokens
from vtprune.core.component import Allocation, AllocationRequest, Allocator, Candidates, Reducer, Selector
from vtprune.core.errors import BudgetError, ComponentError
from vtprune.core.signals import Need, Signals
from vtprune.testing.models import Tiny, vision_mask

SITES = {"input": INPUT_DROP, "drop": DROP, "evict": {**EVICT, "site": "llm.layers[0:].kv"}}
EVERY_NEED = (
    Need("features"),
    Need("keys"),
    Need("values"),
    Need("queries"),
    Need("attention", "received"),
    Need("text", "text"),
    Need("grid"),
    Need("sample_seed"),
    Need("vision_attention", "received", 0),
)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("selector", ["top_k", {"name": "greedy_suppression", "threshold": 0.5}])
def test_protected_tokens_survive_a_hostile_scorer(tiny_any: Tiny, site: str, selector: Any) -> None:
    stage = {
        **SITES[site],
        "scorer": Hostile(against=(1, 3, 15)),
        "selector": selector,
        "protect": [1, 3, -1],
        "budget": 4,
    }
    inputs = tiny_any.make_inputs((1, 1), grids=None if tiny_any.name.startswith("llava") else [(1, 8, 8)] * 2)
    with vtprune.prune(tiny_any.model, recipe(stage)) as run:
        tokens(tiny_any.model, inputs)
    for sample in range(2):
        for event in (event for event in run.report.events if event.sample == sample):
            for kept in event.kept:
                assert {1, 3, 15} <= set(kept.tolist())
                assert len(kept) == 4


@pytest.mark.parametrize("site", SITES)
def test_text_survives_a_budget_of_nothing(tiny_any: Tiny, site: str) -> None:
    """With every vision token gone the text stands where it stood, and as many tokens of it as before."""
    inputs = tiny_any.make_inputs((1, 2))
    seen: list[int] = []
    layer = tiny_any.model.get_decoder().layers[LAYERS - 1]
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    try:
        with vtprune.prune(tiny_any.model, recipe({**SITES[site], "budget": 0.0})) as run:
            tokens(tiny_any.model, inputs, steps=2)
    finally:
        handle.remove()
    text = (inputs["attention_mask"].bool() & ~vision_mask(inputs)).sum(1)
    assert run.report.text_tokens == text.tolist()
    assert [run.report.kept(sample=sample) for sample in range(2)] == [[], []]
    assert seen[0] == (inputs["input_ids"].shape[1] if site == "evict" else int(text.max()))


def test_too_many_protected_tokens_name_the_stage(tiny: Tiny) -> None:
    stage = {**DROP, "protect": [0, 1, 2], "budget": 2}
    with (
        vtprune.prune(tiny.model, recipe(stage)),
        pytest.raises(
            BudgetError, match=r"stages\[0\]: 3 tokens are protected but the budget keeps 2; raise the budget"
        ),
    ):
        logits(tiny.model, tiny.make_inputs((1,)))


def test_a_protected_token_that_does_not_exist_is_named(tiny: Tiny) -> None:
    with (
        vtprune.prune(tiny.model, recipe({**DROP, "protect": [500]})),
        pytest.raises(BudgetError, match=r"stages\[0\]: protected token 500 does not exist; sample 0 has \d+ vision"),
    ):
        logits(tiny.model, tiny.make_inputs((1,)))


@pytest.mark.parametrize("site", SITES)
def test_nan_scores_name_the_stage_and_the_scorer(tiny: Tiny, site: str) -> None:
    bad = {**SITES[site], "scorer": Constant(value=float("nan")), "budget": 0.5}
    stages = recipe({**INPUT_DROP, "budget": 0.9}, bad) if site != "input" else recipe(bad)
    index = len(stages["stages"]) - 1
    with (
        vtprune.prune(tiny.model, stages),
        pytest.raises(
            ComponentError, match=rf"stages\[{index}\]: scorer 'Constant' returned NaN for \d+ of \d+ scores"
        ),
    ):
        logits(tiny.model, tiny.make_inputs((1,)))


@pytest.mark.parametrize("value", [0.0, torch.inf, -torch.inf])
@pytest.mark.parametrize("site", SITES)
def test_ties_break_by_index(tiny_any: Tiny, site: str, value: float) -> None:
    stage = {**SITES[site], "scorer": Constant(value=value), "budget": 5}
    with vtprune.prune(tiny_any.model, recipe(stage)) as run:
        tokens(tiny_any.model, tiny_any.make_inputs((1, 2)))
    assert [run.report.kept(sample=sample) for sample in range(2)] == [[0, 1, 2, 3, 4]] * 2


# -- components that write into what they are given --------------------------------------------------------------------


def _vandalise(signals: Signals) -> Tensor:
    score = signals.get(Need("features"))[..., 0].clone()
    for need in EVERY_NEED:
        signals.get(need).fill_(7)
    return score


def _read(signals: Signals) -> Tensor:
    score = signals.get(Need("features"))[..., 0].clone()
    for need in EVERY_NEED:
        signals.get(need)
    return score


@pytest.mark.parametrize("site", ["llm.layers[1]", "llm.layers[2].kv"])
def test_writing_into_signals_does_not_reach_the_model(tiny_any: Tiny, site: str) -> None:
    inputs, results = tiny_any.make_inputs((1, 2)), []
    for act in (_read, _vandalise):
        scorer = Callback(reads=EVERY_NEED, of=act)
        stages = recipe(
            {"site": site, "scorer": scorer, "budget": 0.5}, {**DROP, "site": "llm.layers[3]", "budget": 0.25}
        )
        with vtprune.prune(tiny_any.model, stages):
            results.append(tokens(tiny_any.model, inputs))
    assert torch.equal(*results)


@pytest.mark.parametrize("site", ["vision.output", "projector.output"])
def test_writing_into_input_signals_does_not_reach_the_model(tiny: Tiny, site: str) -> None:
    inputs, results = tiny.make_inputs((1, 2)), []
    reads = (Need("features"), Need("grid"), Need("vision_attention", "received", 0))

    def act(signals: Signals, write: bool) -> Tensor:
        score = signals.features()[..., 0].clone()
        for need in reads:
            signals.get(need).fill_(7) if write else signals.get(need)
        return score

    for write in (False, True):
        scorer = Callback(reads=reads, of=lambda signals, write=write: act(signals, write))
        with vtprune.prune(tiny.model, recipe({"site": site, "scorer": scorer, "budget": 0.5})):
            results.append(tokens(tiny.model, inputs))
    assert torch.equal(*results)


class Scribble(Selector):
    """Keeps the first tokens and writes over everything it was given."""

    feature_source: ClassVar[str] = "keys"  # type: ignore[assignment]
    write: bool

    def select(self, candidates: Candidates) -> Tensor:
        keep = torch.arange(candidates.vision) < candidates.counts[:, None]
        if self.write:
            for tensor in (candidates.scores, candidates.features):
                assert tensor is not None
                tensor.fill_(3)
        return keep


class Average(Reducer):
    """Leaves features alone but writes over its arguments."""

    sites: ClassVar[frozenset[str]] = frozenset({"hidden"})  # type: ignore[assignment]
    write: bool

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> None:
        if self.write:
            features.fill_(3)
            sizes.fill_(3)


@pytest.mark.parametrize("part", ["selector", "reducer"])
def test_writing_into_arguments_does_not_reach_the_model(tiny_any: Tiny, part: str) -> None:
    inputs, results = tiny_any.make_inputs((1, 2)), []
    for write in (False, True):
        own = {"selector": Scribble(write=write)} if part == "selector" else {"reducer": Average(write=write)}
        with vtprune.prune(tiny_any.model, recipe({**DROP, **own}, EVICT)):
            results.append(tokens(tiny_any.model, inputs))
    assert torch.equal(*results)


# -- components that break their contract ------------------------------------------------------------------------------


class Fixed(Allocator):
    """Whatever a function says."""

    of: Callable[[AllocationRequest, Signals], Tensor]

    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        return Allocation(self.of(request, signals))


class Chosen(Selector):
    """Whatever a function says."""

    of: Callable[[Candidates], Tensor]

    def select(self, candidates: Candidates) -> Tensor:
        return self.of(candidates)


def _scored(of: Callable[[Signals], Tensor]) -> dict[str, Any]:
    return {"scorer": Callback(of=of)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _scored(lambda s: torch.zeros(s.vision, s.batch + 1)),
            r"scorer 'Callback' returned shape \[16, 2\], expected",
        ),
        (
            {"allocator": Fixed(of=lambda r, s: torch.tensor([[2.0]]))},
            "allocator 'Fixed' returned torch.float32 counts",
        ),
        (
            {"allocator": Fixed(of=lambda r, s: torch.tensor([[2, 3]]))},
            r"counts of shape \[1, 2\], expected integers \[1, 1\]",
        ),
        (
            {"allocator": Fixed(of=lambda r, s: torch.tensor([[99]]))},
            r"returned counts \[\[99\]\] outside 0 to the segment",
        ),
        ({"allocator": Fixed(of=lambda r, s: torch.tensor([[-1]]))}, r"returned counts \[\[-1\]\] outside 0"),
        ({"selector": Chosen(of=lambda c: c.protected.long())}, "selector 'Chosen' returned torch.int64"),
        ({"selector": Chosen(of=lambda c: c.protected[:, 1:])}, r"expected bool \[row, vision\] = \[1, 16\]"),
        ({"selector": Chosen(of=lambda c: torch.ones_like(c.protected))}, "kept 16 tokens where 8 were allocated"),
        (
            {"selector": Chosen(of=lambda c: torch.zeros_like(c.protected)), "protect": [2]},
            "selector 'Chosen' gave up a protected token",
        ),
    ],
)
def test_broken_components_are_named(change: dict[str, Any], message: str) -> None:
    from vtprune.testing.models import tiny_llava

    tiny = tiny_llava()
    with (
        vtprune.prune(tiny.model, recipe({**DROP, **change})),
        pytest.raises(ComponentError, match=message) as raised,
    ):
        logits(tiny.model, tiny.make_inputs((1,)))
    assert str(raised.value).startswith("stages[0]: ")
