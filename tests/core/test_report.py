from __future__ import annotations

import io
import json
import math
import re
from html import unescape

import pytest
from rich.console import Console
from torch import Tensor

from tests.core.reports import DROP, HEADS, event, layout, report
from vtprune.core.component import Scorer
from vtprune.core.errors import UnknownNameError, VtpruneError
from vtprune.core.provenance import Provenance
from vtprune.core.report import Report
from vtprune.core.signals import Signals
from vtprune.core.tables import layer_line, quantity, spread

DECREASING = {
    "name": "pyramid",
    "stages": [{"site": "llm.layers[1:4]", "scorer": "attention", "budget": 0.5}],
}


def two_samples() -> Report:
    """Sample 0 has two images (8 tokens), sample 1 none; a drop stage, then a per-head stage at layers 1 and 2."""
    stages = [*DROP["stages"], *HEADS["stages"]]
    return report(
        {"name": "both", "stages": stages},
        [layout((1, 2, 2), (1, 1, 4)), layout()],
        [
            event(0, 0, 0, [0, 2, 5, 7], requested=[4]),
            event(1, 1, 0, [0, 2], [2, 7], diagnostic=0.25),
            event(1, 2, 0, [5], [0]),
        ],
        vision_tokens=[[4, 4, 4, 4], [0, 0, 0, 0]],
        kv_tokens=[[[4, 4], [2, 2], [1, 1], [4, 4]], [[0, 0]] * 4],
    )


class TestKept:
    def test_token_stage(self) -> None:
        assert two_samples().kept(0, 0) == [0, 2, 5, 7]
        assert two_samples().kept() == [0, 2, 5, 7]

    def test_kv_stage_is_the_union_over_layers_and_heads(self) -> None:
        assert two_samples().kept(1) == [0, 2, 5, 7]
        assert two_samples().kept(1, layer=1) == [0, 2, 7]
        assert two_samples().kept(1, head=1) == [0, 2, 7]
        assert two_samples().kept(1, layer=2, head=0) == [5]

    def test_token_stage_at_several_layers_gives_the_last(self) -> None:
        events = [event(0, 3, 0, [1]), event(0, 1, 0, [0, 1, 3]), event(0, 2, 0, [1, 3])]
        pyramid = report(DECREASING, [layout((1, 2, 2))], events)
        assert pyramid.kept() == [1]
        assert pyramid.kept(layer=1) == [0, 1, 3]

    def test_kv_stage_that_keeps_the_same_tokens_in_all_heads(self) -> None:
        shared = report(HEADS, [layout((1, 2, 2))], [event(0, 1, 0, [1, 2])])
        assert shared.kept(head=0) == shared.kept(head=1) == [1, 2]

    def test_sample_without_an_image_gives_nothing(self) -> None:
        assert two_samples().kept(0, 1) == []
        assert two_samples().kept(1, 1, layer=2, head=1) == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"stage": 2}, "stage 2 does not exist; recipe 'both' has 0 to 1"),
            ({"stage": -1}, "negative numbers are not accepted"),
            ({"sample": 2}, "sample 2 does not exist; the batch has 0 to 1"),
            ({"sample": -1}, "negative numbers are not accepted"),
            ({"stage": 1, "layer": 4}, "layer 4 does not exist; LlavaForConditionalGeneration has 0 to 3"),
            ({"stage": 1, "layer": -1}, "negative numbers are not accepted"),
            ({"stage": 1, "layer": 3}, r"did not act at layer 3; it acted at layers \[1, 2\]"),
            ({"stage": 1, "head": 2}, r"head 2 does not exist; .* has 0 to 1"),
            ({"stage": 1, "head": -1}, "negative numbers are not accepted"),
            ({"stage": 0, "head": 0}, "drops whole tokens for all heads; leave head out"),
        ],
    )
    def test_errors_say_what_exists(self, arguments: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            two_samples().kept(**arguments)
        assert isinstance(caught.value, VtpruneError)

    def test_a_stage_that_has_not_acted(self) -> None:
        with pytest.raises(VtpruneError, match=r"stage 0 \(projector.output\) has not acted on sample 0 yet"):
            report(DROP, [layout((1, 2, 2))], []).kept()


class TestMeans:
    def test_only_samples_with_an_image_count(self) -> None:
        run = two_samples()
        assert run.mean_tokens_over_layers == 4
        assert run.mean_kv_tokens_over_layers == (4 + 2 + 1 + 4) / 4
        assert run.tokens_at_llm_input == 4
        assert isinstance(run.tokens_at_llm_input, int)
        assert run.tokens_in_prompt == 8

    def test_a_mean_that_is_no_integer(self) -> None:
        run = report(DROP, [layout((1, 2, 2)), layout((1, 2, 2))], [], vision_tokens=[[3, 1, 1, 1], [2, 2, 2, 2]])
        assert run.tokens_at_llm_input == 2.5
        assert run.mean_tokens_over_layers == (6 + 8) / 8

    def test_before_the_run_and_without_images(self) -> None:
        run = report(DROP, [layout()], [], vision_tokens=[], kv_tokens=[])
        assert run.mean_tokens_over_layers == run.mean_kv_tokens_over_layers == run.tokens_at_llm_input == 0
        assert "not yet" in str(run)


class TestJson:
    def test_holds_everything(self) -> None:
        run = two_samples()
        data = json.loads(run.to_json())
        assert data["recipe"]["name"] == "both"
        assert data["recipe"]["hash"] == run.recipe.hash
        assert data["recipe"]["stages"] == run.recipe.to_dict()["stages"]
        assert (data["family"], data["model"]) == ("llava", "LlavaForConditionalGeneration")
        assert data["samples"] == [
            {
                "vision": 8,
                "text": 7,
                "segments": [
                    {"kind": "image", "start": 0, "stop": 4, "grid": [1, 2, 2]},
                    {"kind": "image", "start": 4, "stop": 8, "grid": [1, 1, 4]},
                ],
            },
            {"vision": 0, "text": 7, "segments": []},
        ]
        for name in ("kv_bytes", "kv_bytes_full", "flops", "flops_full", "flops_parts", "new_tokens", "versions"):
            assert data[name] == getattr(run, name)
        assert data["recipe"]["replace"] == {}
        assert data["components"] == []
        for name in ("mean_tokens_over_layers", "mean_kv_tokens_over_layers", "tokens_at_llm_input"):
            assert data[name] == getattr(run, name)
        assert data["vision_tokens"] == run.vision_tokens
        assert data["kv_tokens"] == run.kv_tokens

    def test_holds_where_components_come_from_and_what_was_replaced(self) -> None:
        recipe = {**DROP, "replace": {"attention": "random"}}
        part = Provenance("scorer", "acme/lean", "acme", "1.0", 2)
        data = report(recipe, [layout()], [], components=(part,)).to_dict()
        assert data["components"] == [
            {"kind": "scorer", "name": "acme/lean", "origin": "acme", "version": "1.0", "revision": 2}
        ]
        assert data["recipe"]["replace"] == {"attention": "random"}

    def test_stages_hold_totals_and_events(self) -> None:
        token, heads = two_samples().to_dict()["stages"]
        assert {key: token[key] for key in ("stage", "site", "seconds", "requested", "realised")} == {
            "stage": 0,
            "site": "projector.output",
            "seconds": 0.0015,
            "requested": 4,
            "realised": 4,
        }
        assert token["events"] == [
            {"layer": 0, "sample": 0, "requested": 4, "realised": 4, "kept": [0, 2, 5, 7], "diagnostics": {}}
        ]
        assert (heads["requested"], heads["realised"]) == (6, 6)
        assert heads["events"][0] == {
            "layer": 1,
            "sample": 0,
            "requested": [2, 2],
            "realised": [2, 2],
            "kept": [[0, 2], [2, 7]],
            "diagnostics": {"diagnostic": 0.25},
        }

    def test_requested_and_realised_may_differ(self) -> None:
        run = report(DROP, [layout((1, 2, 2))], [event(0, 0, 0, [3], requested=[2])])
        stage = run.to_dict()["stages"][0]
        assert (stage["requested"], stage["realised"]) == (2, 1)

    def test_a_diagnostic_that_is_not_finite_stays_valid_json(self) -> None:
        run = report(DROP, [layout((1, 2, 2))], [event(0, 0, 0, [3], low=-math.inf, odd=math.nan, fine=1.5)])
        diagnostics = json.loads(run.to_json())["stages"][0]["events"][0]["diagnostics"]
        assert diagnostics == {"low": None, "odd": None, "fine": 1.5}

    def test_writes_a_file(self, tmp_path) -> None:
        text = two_samples().to_json(tmp_path / "report.json")
        assert json.loads((tmp_path / "report.json").read_text()) == json.loads(text)

    def test_a_segment_without_a_grid(self) -> None:
        run = report(DROP, [layout(None)], [event(0, 0, 0, [3])])
        assert run.to_dict()["samples"][0]["segments"][0]["grid"] is None


class TestTables:
    def test_a_line_per_stage_and_the_totals(self) -> None:
        lines = str(two_samples()).splitlines()
        (first,) = [line for line in lines if "projector.output" in line]
        assert "random > uniform > top_k > drop" in first
        assert [cell.strip() for cell in first.split("│")[4:7]] == ["4", "4", "1.5"]
        assert any("2.00 KiB" in line and "512 B" in line and "25.0%" in line for line in lines)
        assert any("12.00 M" in line and "3.00 M" in line for line in lines)
        assert any("at the LLM input" in line and "8" in line and "4" in line and "50.0%" in line for line in lines)
        assert max(map(len, lines)) <= 110

    def test_a_stage_with_several_layers_has_a_line_for_them(self) -> None:
        assert "stage 1 kept, by layer: 1: 2, 2: 1" in str(two_samples())

    def test_equal_neighbours_are_joined(self) -> None:
        events = [event(0, layer, 0, [0] * count) for layer, count in ((2, 3), (3, 3), (4, 1), (6, 1), (7, 2))]
        assert layer_line(events) == "2-3: 3, 4: 1, 6: 1, 7: 2"
        assert layer_line(events[:1]) == ""

    def test_layers_are_averaged_over_samples_and_heads(self) -> None:
        events = [event(0, 1, 0, [0], [0, 1]), event(0, 1, 1, [0, 1], [0, 1]), event(0, 2, 0, [0], [0])]
        assert layer_line(events) == "1: 1.8, 2: 1"

    def test_rich_shows_the_same(self) -> None:
        console = Console(width=110, file=io.StringIO())
        console.print(two_samples())
        assert [line.rstrip() for line in console.file.getvalue().splitlines()] == str(two_samples()).splitlines()

    def test_html_is_a_fragment_that_shows_the_same(self) -> None:
        html = two_samples()._repr_html_()
        assert html.startswith("<pre")
        assert "<html" not in html
        text = unescape(re.sub("<[^>]*>", "", html))
        assert [line.rstrip() for line in text.splitlines()] == str(two_samples()).splitlines()

    def test_brackets_in_a_site_are_text(self) -> None:
        assert "llm.layers[1:].kv" in str(two_samples())

    @pytest.mark.parametrize(
        ("value", "style", "text"),
        [
            (512, "B", "512 B"),
            (1536, "B", "1.50 KiB"),
            (3 * 1024**3, "B", "3.00 GiB"),
            (2.5e12, "F", "2.50 T"),
            (7, "F", "7"),
        ],
    )
    def test_quantities(self, value: float, style: str, text: str) -> None:
        assert quantity(value, style) == text

    def test_spread(self) -> None:
        assert spread([3, 3]) == "3"
        assert spread([40, 65]) == "52.5 (40 to 65)"

    def test_repr_is_one_line(self) -> None:
        assert repr(two_samples()) == "<Report of 'both' on LlavaForConditionalGeneration: 2 samples, 3 events>"


class Mine(Scorer):
    """As in a notebook, where a method is tried before it has a package."""

    power: float = 1.0

    def score(self, signals: Signals) -> Tensor:
        raise NotImplementedError


def of_mine() -> Report:
    scorer = {"name": "normalise", "method": "rank", "scorer": Mine(power=2)}
    stages = [{"site": "llm.layers[1]", "scorer": scorer, "budget": 0.5}]
    return report({"name": "mine", "stages": stages}, [layout((1, 2, 2))], [event(0, 1, 0, [0, 2])])


def test_a_component_that_is_not_registered_is_written_by_its_class() -> None:
    data = json.loads(of_mine().to_json())["recipe"]
    assert data["hash"] is None
    inner = {"name": "tests.core.test_report:Mine", "power": 2.0}
    assert data["stages"][0]["scorer"]["scorer"] == inner
    with pytest.raises(UnknownNameError, match="Mine is not a registered scorer"):
        of_mine().recipe.to_dict()


def test_a_component_that_is_not_registered_leaves_the_table_without_a_hash() -> None:
    stages = [{"site": "llm.layers[1]", "scorer": Mine(), "budget": 0.5}]
    text = str(report({"name": "mine", "stages": stages}, [layout((1, 2, 2))], [event(0, 1, 0, [0, 2])]))
    assert "mine (no hash: a component is not registered) on Llava" in text
    assert "Mine > uniform > top_k > drop" in text
