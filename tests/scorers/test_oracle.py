"""Oracle and annotations: what the caller knows decides, through the public API."""

from __future__ import annotations

import pytest
import torch

import vtprune
from tests.scorers.support import layout, signals_of
from vtprune.core.errors import ComponentError
from vtprune.core.layout import SampleLayout
from vtprune.core.signals import Need
from vtprune.scorers.oracle import Oracle
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl

RECIPE = {"stages": [{"site": "projector.output", "scorer": "oracle", "budget": {"keep_tokens": 3}}]}
KV = {"stages": [{"site": "llm.layers[1:].kv", "scorer": "oracle", "budget": {"keep_tokens": 3}}]}


def test_annotated_tokens_come_first_and_equals_are_shuffled() -> None:
    one = layout((1, 4, 5))
    wanted = torch.zeros(1, 20)
    wanted[0, [3, 17]] = 1.0
    wanted[0, 9] = 0.5
    tensors = {Need("annotation"): wanted, Need("sample_seed"): torch.tensor([4])}
    orders = [Oracle(seed=seed).score(signals_of(tensors, (one,)))[0].argsort(descending=True) for seed in (0, 1)]
    for order in orders:
        assert set(order[:2].tolist()) == {3, 17}
        assert order[2] == 9
    assert not torch.equal(*orders)


@pytest.mark.parametrize("tiny", [tiny_llava(), tiny_qwen2_5_vl()], ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("recipe", [RECIPE, KV], ids=["drop", "kv"])
def test_annotated_tokens_are_kept_in_a_padded_batch(tiny: Tiny, recipe: dict) -> None:
    inputs = tiny.make_inputs((1, 2))
    wanted = {0: [1, 4, 5], 1: [0, 7, 9]}

    def say(sample: int, layout: SampleLayout) -> torch.Tensor:
        return torch.isin(torch.arange(layout.vision), torch.tensor(wanted[sample])).float()

    with vtprune.prune(tiny.model, recipe) as run:
        run.annotate(say)
        tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        for sample, tokens in wanted.items():
            assert run.report.kept(sample=sample) == tokens


def test_every_beam_gets_its_samples_annotation() -> None:
    tiny = tiny_llava()

    def say(sample: int, layout: SampleLayout) -> torch.Tensor:
        assert sample in (0, 1)
        return (torch.arange(layout.vision) == 5 * sample).float()

    with vtprune.prune(tiny.model, RECIPE) as run:
        run.annotate(say)
        tiny.model.generate(**tiny.make_inputs((1, 1)), max_new_tokens=2, num_beams=2, do_sample=False)
        assert 0 in run.report.kept(sample=0)
        assert 5 in run.report.kept(sample=1)


def test_a_missing_annotation_says_so() -> None:
    tiny = tiny_llava()
    with vtprune.prune(tiny.model, RECIPE), pytest.raises(ComponentError, match=r"run\.annotate"):
        tiny.model(**tiny.make_inputs())


def test_an_annotation_of_another_size_says_so() -> None:
    tiny = tiny_llava()
    with vtprune.prune(tiny.model, RECIPE) as run:
        run.annotate(lambda sample, layout: torch.zeros(7))
        with pytest.raises(ComponentError, match=r"shape \[7\].* 16 vision tokens"):
            tiny.model(**tiny.make_inputs())
