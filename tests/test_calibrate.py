"""The calibrator of PLPHP's thresholds."""

from __future__ import annotations

import pytest
import torch

import vtprune
from vtprune.calibrate import Calibration, calibrate_reattention
from vtprune.core.errors import BudgetError, VtpruneError
from vtprune.testing.models import tiny_llava, tiny_qwen2_5_vl

FAMILIES = pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl], ids=["llava", "qwen2_5_vl"])


def prompts(tiny, count=6):
    return [tiny.make_inputs(images=(1, 2), seed=seed) for seed in range(count)]


@FAMILIES
@pytest.mark.parametrize("mean", [0.35, 0.4, 0.5])
def test_the_mean_retention_is_the_one_asked_for(build, mean):
    tiny = build()
    found = calibrate_reattention(tiny.model, prompts(tiny), mean)
    pairs = 12 * tiny.model.config.text_config.num_hidden_layers
    assert found.prompts == 12
    assert abs(found.mean_retention - mean) <= 0.6 / pairs + 1e-9
    assert 0 <= found.beta <= found.alpha <= 1
    assert found.requested == mean


@FAMILIES
def test_the_thresholds_do_in_a_run_what_they_promise(build):
    tiny = build()
    found = calibrate_reattention(tiny.model, prompts(tiny), 0.45)
    retained = []
    for inputs in prompts(tiny):
        with vtprune.prune(tiny.model, "plphp", **found.overrides()) as run, torch.no_grad():
            tiny.model(**inputs)
        retained += [event.diagnostics["retention"] for event in run.report.events]
    assert sum(retained) / len(retained) == pytest.approx(found.mean_retention, abs=1e-6)
    assert len(set(retained)) == 3


def test_vision_attention_is_the_mean_over_prompts_per_layer():
    tiny = tiny_llava("eager")
    inputs = tiny.make_inputs(images=(1,))
    with torch.no_grad():
        maps = tiny.model(**inputs, output_attentions=True).attentions
    vision = inputs["input_ids"][0] == tiny.model.config.image_token_id
    expected = [float(layer[0, :, -1, vision].sum(-1).mean()) for layer in maps]
    found = calibrate_reattention(tiny.model, [inputs], 0.4)
    assert found.vision_attention == pytest.approx(expected, abs=1e-6)


def test_an_unreachable_mean_says_what_can_be_reached():
    tiny = tiny_llava()
    with pytest.raises(BudgetError, match=r"mean_retention=0.9 .* between 0.2 and 0.6"):
        calibrate_reattention(tiny.model, prompts(tiny, 1), 0.9)
    with pytest.raises(BudgetError, match=r"levels 0\.4, 0\.4, 0\.4"):
        calibrate_reattention(tiny.model, prompts(tiny, 1), 0.4, delta=0.0)


def test_without_prompts_it_says_so():
    with pytest.raises(VtpruneError, match="no calibration prompt"):
        calibrate_reattention(tiny_llava().model, [], 0.4)


def test_it_is_saved_and_loaded(tmp_path):
    tiny = tiny_llava()
    found = calibrate_reattention(tiny.model, prompts(tiny, 2), 0.4)
    found.save(tmp_path / "thresholds.json")
    assert Calibration.load(tmp_path / "thresholds.json") == found
    (tmp_path / "old.json").write_text('{"schema_version": 0}')
    with pytest.raises(VtpruneError, match="schema 0"):
        Calibration.load(tmp_path / "old.json")


def test_the_allocator_carries_the_thresholds():
    tiny = tiny_llava()
    found = calibrate_reattention(tiny.model, prompts(tiny, 2), 0.4)
    allocator = found.allocator()
    assert (allocator.rate, allocator.alpha, allocator.beta) == (found.rate, found.alpha, found.beta)
