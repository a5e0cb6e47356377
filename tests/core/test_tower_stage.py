"""Stages inside the vision tower: what is refused and why, what is reported, and how a layer runs on what is left."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

import vtprune
from tests.robustness.scenes import recipe, unchanged, warm
from vtprune import Recipe
from vtprune.core.component import Merged, Reducer
from vtprune.core.engine.plan import bind
from vtprune.core.engine.shorter import Keys, buckets_of, shorter
from vtprune.core.errors import BindingError, BudgetError, RecipeError, UnsupportedModeError
from vtprune.core.signals import Need
from vtprune.testing.models import IMAGE, tiny_llava
from vtprune.testing.models.families import variant

RANDOM = {"scorer": "random"}
STAGE: dict[str, Any] = {"site": "vision.layers[1]", **RANDOM, "budget": 0.5}
DEEP = 5


def deep() -> Any:
    return tiny_llava(vision_layers=DEEP).model


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"flops_ratio": 0.5}}, "budget flops_ratio=0.5 cannot be resolved at vision.layers[1]"),
        ({"budget": {"kv_bytes_ratio": 0.5}}, "the vision tower runs before the prompt is known"),
        ({"budget": {"mean_tokens_over_layers": 9}}, "use keep_ratio or keep_tokens (per image), or a later site"),
        ({"scope": "image"}, "scope: image has no effect at vision.layers[1]"),
        ({"reducer": "evict_kv"}, "reducer 'evict_kv' cannot serve vision.layers[1]; use drop, merge"),
        (
            {"scorer": {"name": "attention", "head_reduction": "none"}},
            "gives a score per head, but vision.layers[1] drops whole tokens",
        ),
    ],
)
def test_recipes_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(recipe({**STAGE, **change}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "vision.layers[9]"}, "layer 9 is out of range; the vision tower has layers 0 to 4"),
        (
            {"site": "vision.layers[-1]"},
            "uses the tower's features after layer 3 of 5, so dropping on entering layer 4 would have no effect; the "
            "last useful site is vision.layers[3], or use vision.output",
        ),
        ({"site": "vision.layers[2:]"}, "dropping on entering layer 4 would have no effect"),
        ({"scorer": "attention"}, "vision.layers[1] lies before the language model"),
        ({"scorer": "oracle"}, "annotations belong to a sample's prompt"),
        (
            {"scorer": "similarity"},
            "text embeddings do not live in the space of vision.layers[1]",
        ),
        (
            {"scorer": {"name": "cls_attention", "layers": [-2]}},
            "vision layer 3 has not run when vision.layers[1] is reached; the latest is 0",
        ),
        (
            {"site": "vision.layers[0]", "scorer": {"name": "cls_attention", "layers": [0]}},
            "vision layer 0 has not run when vision.layers[0] is reached; none has",
        ),
    ],
)
def test_stages_a_model_cannot_have(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BindingError) as caught:
        bind(Recipe.parse(recipe({**STAGE, **change})), deep())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("qwen2_5_vl", "it does not declare tower_depth, that is, that its vision layers run on [image, patch, dim]"),
        ("aria", "no token of this family is made of certain patches"),
        ("mistral3", "packed sequences and windows are laid out for every patch"),
    ],
)
def test_families_without_such_sites(family: str, reason: str) -> None:
    model = variant(family).make().model
    with pytest.raises(BindingError) as caught:
        bind(Recipe.parse(recipe(STAGE)), model)
    assert reason in str(caught.value)
    assert "so vision.layers[1] is not a site of this model" in str(caught.value)
    assert "Use vision.output or projector.output" in str(caught.value)


def test_stages_stand_in_the_order_in_which_the_model_runs() -> None:
    later = {"site": "projector.output", **RANDOM, "budget": 0.5}
    for stages in ([later, STAGE], [{**STAGE, "site": "vision.layers[2]"}, STAGE]):
        with pytest.raises(BindingError, match="list the stages in the order in which the model runs"):
            bind(Recipe.parse(recipe(*stages)), deep())
    assert bind(Recipe.parse(recipe(STAGE, {**STAGE, "site": "vision.layers[1:4]"}, later)), deep())


def test_an_image_is_too_small_for_the_budget() -> None:
    tiny = tiny_llava()
    for change, message in (
        ({"budget": {"keep_tokens": 17}}, r"\(vision.layers\[1\]\), image 0: budget keep_tokens=17 asks for more"),
        ({"protect": [16]}, r"protected token 16 does not exist; image 0 has 16 vision tokens"),
        ({"protect": [0, 1, -1], "budget": {"keep_tokens": 2}}, "3 tokens are protected but the budget keeps 2"),
    ):
        with vtprune.prune(tiny.model, recipe({**STAGE, **change})), pytest.raises(BudgetError, match=message):
            tiny.model(**tiny.make_inputs((1,)))


def test_the_answer_needs_the_last_token() -> None:
    """A prompt that ends with an image starts its answer from the image's last token."""
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1,))
    end = int((inputs["input_ids"][0] == IMAGE).nonzero()[-1]) + 1
    inputs |= {name: inputs[name][:, :end] for name in ("input_ids", "attention_mask")}
    with (
        vtprune.prune(tiny.model, recipe({**STAGE, "budget": 0.0})),
        pytest.raises(BudgetError, match="ends with a vision token, from which the answer starts"),
    ):
        tiny.model(**inputs)
    with vtprune.prune(tiny.model, recipe({**STAGE, "protect": [-1]})) as run:
        tiny.model(**inputs)
    assert run.report.kept()[-1] == 15


# -- what is reported ----------------------------------------------------------------------------------------------


def test_the_report_counts_in_the_prompt() -> None:
    tiny = tiny_llava(vision_layers=DEEP)
    stages = (
        {**STAGE, "site": "vision.layers[1,3]", "budget": 0.5},
        {"site": "llm.layers[2]", **RANDOM, "budget": 0.2},
    )
    with vtprune.prune(tiny.model, recipe(*stages)) as run:
        tiny.model(**tiny.make_inputs((1, 2, 0, 1)))
    report = run.report
    assert [(event.layer, event.sample) for event in report.stage_events(0)] == [
        (layer, sample) for layer in (1, 3) for sample in range(4)
    ]
    assert [event.requested for event in report.stage_events(0)] == [(8,), (16,), (0,), (8,)] * 2
    assert [event.realised for event in report.stage_events(0)] == [(8,), (16,), (0,), (8,)] * 2
    for sample, layout in enumerate(report.layouts):
        kept = report.kept(0, sample)
        assert kept == report.kept(0, sample, layer=3) == report.kept(0, sample, layer=1)
        assert [sum(s.start <= t < s.stop for t in kept) for s in layout.segments] == [8] * len(layout.segments)
        assert report.vision_tokens[sample][:2] == [len(kept)] * 2
        assert [heads[0] for heads in report.kv_tokens[sample]] == report.vision_tokens[sample]
        assert set(report.kept(1, sample)) <= set(kept)
    assert report.tokens_at_llm_input == 32 / 3
    assert report.stage_seconds[0] > 0
    assert "vision.layers[1,3]" in str(report)


def test_seconds_belong_to_their_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves on by one at every look."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    tiny = tiny_llava()
    with vtprune.prune(tiny.model, recipe(STAGE)) as run:
        for _ in range(3):
            tiny.model(**tiny.make_inputs((1,)))
    first, _, last = (report.stage_seconds[0] for report in run.reports)
    assert first == last > 0


def test_a_random_choice_is_the_image_s_own() -> None:
    """By its content: the same for an image wherever it stands, another for another image."""
    tiny = tiny_llava()
    inputs = tiny.make_inputs((2, 1))
    inputs["pixel_values"][2] = inputs["pixel_values"][0]
    with vtprune.prune(tiny.model, recipe(STAGE)) as run:
        tiny.model(**inputs)
    first, second = run.report.kept(0, 0), run.report.kept(0, 1)
    assert [token for token in first if token < 16] == second
    assert [token - 16 for token in first if token >= 16] != second


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_shared_images_cost_and_keep_the_same(family: str) -> None:
    tiny = variant(family).make()
    inputs = tiny.make_inputs((1,), seed=3)
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}
    stage = {"site": "vision.layers[1]", "scorer": RANDOM["scorer"], "selector": {"name": "threshold", "value": 0.5}}
    reports = []
    for share in (False, True):
        with vtprune.prune(tiny.model, recipe(stage), share_images=share) as run:
            logits = tiny.model(**twice).logits
        reports.append(run.report)
        assert torch.equal(logits[0], logits[1])
    plain, shared = reports
    assert [event.to_dict() for event in shared.events] == [event.to_dict() for event in plain.events]
    assert shared.flops_parts == plain.flops_parts
    assert plain.flops_parts["vision"] < plain.flops_parts["vision_full"]


def test_shared_images_count_as_often_as_they_are_asked_for() -> None:
    """Images A, B, A, which keep different numbers of tokens."""
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1, 1, 1), text=(3, 3))
    inputs["pixel_values"] = inputs["pixel_values"][[0, 1, 0]]
    stage = {"site": "vision.layers[1]", "scorer": RANDOM["scorer"], "selector": {"name": "threshold", "value": 0.6}}
    reports = []
    for share in (False, True):
        with vtprune.prune(tiny.model, recipe(stage), share_images=share) as run:
            tiny.model(**inputs)
        reports.append(run.report)
    counts = [event.realised for event in reports[0].events]
    assert counts[0] == counts[2] != counts[1]
    assert reports[0].flops_parts == reports[1].flops_parts
    assert [event.to_dict() for event in reports[0].events] == [event.to_dict() for event in reports[1].events]


class Noting(Reducer):
    """Notes what it is given, and merges nothing."""

    sites: ClassVar[frozenset[Literal["hidden", "kv"]]] = frozenset({"hidden"})
    seen: ClassVar[list[tuple[int, ...]]] = []

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged:
        self.seen.append((*features.shape, keep.shape[1], sizes.shape[1]))
        return Merged(features, sizes)


def test_separators_are_no_patches_to_merge() -> None:
    """Newline tokens can be kept or dropped, but there is nothing of them to merge."""
    tiny = variant("llava_next").make()
    Noting.seen.clear()
    with vtprune.prune(tiny.model, recipe({**STAGE, "budget": 0.5, "reducer": Noting()})) as run:
        tiny.model(**tiny.make_inputs((1,), seed=3))
    segments = run.report.layouts[0].segments
    patches = [s.grid[1] * (s.grid[2] - s.row_ends) for s in segments if s.grid is not None]
    assert any(s.row_ends for s in segments)
    width = tiny.model.config.vision_config.hidden_size
    assert Noting.seen == [(1, count, width, count, count) for count in patches]


def test_leaving_restores_the_tower() -> None:
    tiny = warm(tiny_llava(vision_layers=DEEP))
    inputs = tiny.make_inputs((1,))
    expected = tiny.model(**inputs).logits
    with unchanged(tiny.model):
        with vtprune.prune(tiny.model, recipe(STAGE)):
            assert not torch.equal(tiny.model(**inputs).logits, expected)
        with vtprune.prune(tiny.model, recipe({**STAGE, "budget": {"keep_tokens": 99}})), pytest.raises(BudgetError):
            tiny.model(**inputs)
    assert torch.equal(tiny.model(**inputs).logits, expected)


def test_the_tower_alone_is_left_alone() -> None:
    """Called beside the model it prunes nothing: nobody knows whose images they are."""
    tiny = tiny_llava()
    pixels, tower = tiny.make_inputs((2,))["pixel_values"], tiny.model.model.vision_tower
    expected = tower(pixels).last_hidden_state
    with vtprune.prune(tiny.model, recipe(STAGE)):
        assert torch.equal(tower(pixels).last_hidden_state, expected)


# -- a layer on what is left ---------------------------------------------------------------------------------------

GONE = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


def test_buckets_hold_images_of_equal_length() -> None:
    buckets = buckets_of(GONE, torch.device("cpu"))
    assert buckets is not None
    assert [bucket.tolist() for bucket in buckets] == [[[0, 2], [10, 11]], [[4, 5, 6, 7]]]
    assert buckets_of(torch.zeros_like(GONE), torch.device("cpu")) is None
    assert buckets_of(torch.ones_like(GONE), torch.device("cpu")) == []


def attend(hidden: Tensor, mask: Tensor | None = None, **_: Any) -> Tensor:
    scores = hidden @ hidden.transpose(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], float("-inf"))
    return scores.softmax(-1) @ hidden


@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_computes_what_is_left_and_nothing_else(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 4, 3, generator=generator)
    own = torch.rand(4, 1, 4, 4, generator=generator) > 0.3
    own |= torch.eye(4, dtype=torch.bool)
    widths = []

    def layer(hidden: Tensor, mask: Tensor | None, **rest: Any) -> Tensor:
        widths.append(tuple(hidden.shape[:2]))
        return attend(hidden, mask, **rest)

    made = shorter(layer, hidden, buckets_of(GONE, hidden.device), [own if masked else None], {"flag": 3})
    assert widths == [(2, 2), (1, 4)]
    visible = ~GONE[:, None, None, :] & (own if masked else torch.ones_like(own))
    expected = attend(hidden, visible).masked_fill(GONE[..., None], 0)
    torch.testing.assert_close(made, expected)
    assert not shorter(layer, hidden, [], [None], {}).any()
    assert widths == [(2, 2), (1, 4)]


def test_other_tensors_beside_the_hidden_states_are_refused() -> None:
    hidden = torch.randn(4, 4, 3)
    with pytest.raises(UnsupportedModeError, match=r"given a tensor of shape \[4, 3\] beside its hidden states"):
        shorter(attend, hidden, buckets_of(GONE, hidden.device), [], {"rotary": torch.zeros(4, 3)})


def test_attention_returns_to_where_its_patches_stand() -> None:
    need = Need("vision_attention", "cls", 0)
    found: dict[Need, list[Tensor]] = {need: []}
    keys = Keys(found)
    for bucket in buckets_of(GONE, torch.device("cpu")) or []:
        keys.bucket = bucket
        keys.collect(need, bucket[:, None].float() + torch.tensor([100.0, 200.0])[:, None])
    keys.spread(4, 4)
    at = torch.arange(16.0).view(4, 1, 4) + torch.tensor([100.0, 200.0])[:, None]
    assert torch.equal(found[need][0], at.masked_fill(GONE[:, None], 0))
    keys.collect(need, at)
    assert torch.equal(found[need][1], at), "without buckets it is taken as it is"
