"""`vtprune.observe`: reports on the model as it is, and changes nothing."""

from __future__ import annotations

import pytest
import torch

import vtprune
from vtprune.testing.models import Tiny, tiny_llava, tiny_qwen2_5_vl

KEEP_ALL = {"stages": [{"site": "projector.output", "scorer": "random", "budget": 1.0}]}


@pytest.mark.parametrize("tiny", [tiny_llava(), tiny_qwen2_5_vl()], ids=lambda tiny: tiny.name)
def test_same_tokens_and_the_counts_of_a_recipe_that_keeps_all(tiny: Tiny) -> None:
    inputs = tiny.make_inputs((1, 2))
    options = {"max_new_tokens": 4, "do_sample": False}
    plain = tiny.model.generate(**inputs, **options)
    with vtprune.observe(tiny.model) as run:
        observed = tiny.model.generate(**inputs, **options)
    with vtprune.prune(tiny.model, KEEP_ALL) as reference:
        tiny.model.generate(**inputs, **options)
    assert torch.equal(plain, observed)
    seen, expected = run.report, reference.report
    assert seen.vision_tokens == expected.vision_tokens
    assert seen.kv_tokens == expected.kv_tokens
    assert (seen.kv_bytes, seen.kv_bytes_full) == (expected.kv_bytes, expected.kv_bytes_full)
    assert (seen.flops, seen.flops_full) == (expected.flops, expected.flops_full)
    assert seen.flops == seen.flops_full > 0
    assert not seen.events
    assert not seen.stage_seconds


def test_its_report_can_be_shown() -> None:
    tiny = tiny_llava()
    with vtprune.observe(tiny.model) as run:
        tiny.model(**tiny.make_inputs())
    assert "none" in str(run.report)
    assert run.report.to_dict()["stages"] == []
    assert '"name": "none"' in run.report.to_json()
