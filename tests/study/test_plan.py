from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel

from tests.study import fake
from tests.study.fake import Fake, register_fake, save_default
from vtprune.api import observe
from vtprune.core import lookup
from vtprune.core.errors import UnknownNameError
from vtprune.core.lookup import adapter_of
from vtprune.scorers.random import Random
from vtprune.study import identity
from vtprune.study.cell import Cell, ModelRef, Variant
from vtprune.study.estimate import sample_flops, tokens_by_layer, workload
from vtprune.study.file import StudyError
from vtprune.study.listing import plan_table
from vtprune.study.names import LENT
from vtprune.study.plan import Plan, make_plan
from vtprune.study.prompts import encode
from vtprune.testbed import load_default, models

SET = {"recipes": ["fastv"], "limit": 6, "seeds": [0, 1]}
DEEP = {"label": "deep", "recipe": {"stages": [{"site": "llm.layers[20]", "scorer": "attention", "budget": 0.5}]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        register_fake(patch)
        yield save_default(tmp_path_factory.mktemp("model"))


@pytest.fixture
def plan(folder: Path):
    def make(**changes: Any) -> Plan:
        return make_plan(fake.study(**{"models": [str(folder)], **SET, **changes}))

    return make


def ids(plan: Plan) -> list[str]:
    return [cell.id for cell in plan.cells]


def test_cells_are_models_times_tasks_times_variants(plan, folder: Path) -> None:
    models = [str(folder), {"id": str(folder), "dtype": "bfloat16"}]
    made = plan(models=models, tasks=["fake", {"name": "fake", "length": 3}])
    assert len(made.cells) == len(set(ids(made))) == 2 * 2 * (1 + 4 + 2 + 2 + 2)
    assert made.samples == 6 * len(made.cells)
    assert set(made.flops) == set(ids(made))
    assert not made.refused + made.merged + made.notes
    assert [Cell.from_dict(json.loads(json.dumps(cell.to_dict()))).id for cell in made.cells] == ids(made)
    json.dumps(made.to_dict(), allow_nan=False)


def test_ids_do_not_depend_on_names_or_neighbours(plan) -> None:
    alone = plan()
    other = plan(
        name="other",
        recipes=["divprune", {"recipe": "fastv", "label": "FastV"}],
        axes={"budget": [0.25]},
        seeds=[1],
        baselines={"without": ["downsample"]},
    )
    shared = {cell.id: cell.variant.name for cell in other.cells if cell.id in ids(alone)}
    assert set(shared.values()) == {
        "full",
        "random budget=0.25 seed=1",
        "uniform_grid budget=0.25",
        "FastV budget=0.25",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 5},
        {"batch_size": 3},
        {"threads": 2},
        {"keep_indices": 1},
        {"tasks": [{"name": "fake", "content": "other"}]},
        {"tasks": [{"name": "fake", "max_new_tokens": 4}]},
    ],
)
def test_what_acts_is_in_every_id(plan, changes: dict[str, Any]) -> None:
    assert not set(ids(plan())) & set(ids(plan(**changes)))


def test_revisions_and_versions_are_in_the_id(plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {cell.variant.name: cell.id for cell in plan().cells}

    def changed() -> set[str]:
        return {cell.variant.label for cell in plan().cells if before[cell.variant.name] != cell.id}

    with monkeypatch.context() as patch:
        patch.setattr(Random, "revision", 2)
        assert changed() == {"random"}
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "revision", 2)
        assert changed() == {"full", "random", "uniform_grid", "downsample", "fastv"}
    with monkeypatch.context() as patch:
        patch.setattr(identity, "version", lambda package: "0.0")
        assert changed() == {"full", "random", "uniform_grid", "downsample", "fastv"}


def test_a_folder_counts_by_its_content_wherever_it_lies(plan, folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    (moved / "README.md").write_text("a model card")
    assert ids(plan(models=[str(moved)])) == ids(plan())
    changed = shutil.copytree(folder, tmp_path / "changed")
    weights = changed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert identity.fingerprint(changed) != identity.fingerprint(folder)


def test_a_task_at_a_path_counts_by_its_fingerprint(tmp_path: Path) -> None:
    here, there = (Fake(path=tmp_path / name, content="abc") for name in "ab")
    plain = {"name": "fake", "content": "abc", "length": 8}
    one, two = (identity.task_identity(task, {**plain, "path": str(task.path)}) for task in (here, there))
    assert one == two
    unknown = identity.task_identity(Fake(path=tmp_path), {**plain, "path": "x"})
    assert unknown["task"]["path"] == "x"


def test_what_a_model_cannot_do_is_refused_with_the_reason(plan) -> None:
    made = plan(recipes=["fastv", DEEP])
    (refusal,) = made.refused
    assert (refusal.what, refusal.expected) == ("deep", False)
    assert "layer 20 is out of range; the model has layers 0 to 7" in refusal.reason
    assert "deep" not in {cell.variant.label for cell in made.cells}


def test_an_oracle_needs_a_task_that_says_where_answers_are(plan) -> None:
    entry = {"recipe": "fastv", "controls": ["oracle"]}
    made = plan(recipes=[entry], tasks=["fake", {"name": "fake", "regions": False}])
    oracles = [cell.task["regions"] for cell in made.cells if cell.variant.label == "fastv (oracle)"]
    assert oracles == [True] * 4
    assert ["does not say where answers are" in refusal.reason for refusal in made.refused] == [True]


@pytest.mark.parametrize(
    ("options", "limit", "reason"),
    [
        ({"length": 12, "first_region": 11}, None, None),
        ({"length": 12, "first_region": 11}, 12, None),
        ({"length": 12, "first_region": 11}, 11, "none of its first 11 samples has regions; "),
        ({"length": 300, "first_region": 299}, None, "none of its first 256 samples has regions; a task with later"),
        ({"length": 300, "first_region": 299, "tells": True}, None, None),
        ({"length": 300, "regions": False, "tells": True}, None, "(none of its samples has regions)"),
        ({"length": 300, "first_region": 299, "tells": True}, 299, "(none of its first 299 samples has regions)"),
    ],
)
def test_the_first_region_may_come_late(plan, options: dict[str, Any], limit: int | None, reason: str | None) -> None:
    entry = {"recipe": "fastv", "controls": ["oracle"]}
    made = plan(recipes=[entry], tasks=[{"name": "fake", **options}], limit=limit, axes={"budget": [0.5]})
    assert any(cell.variant.label == "fastv (oracle)" for cell in made.cells) == (reason is None)
    assert [reason in refusal.reason for refusal in made.refused] == ([] if reason is None else [True])


def test_equal_cells_are_planned_once_and_the_factorial_stays_complete(plan) -> None:
    grid = {"site": "llm.layers[2]", "scorers": ["attention", "random"]}
    made = plan(recipes=["fastv", {"recipe": "fastv", "label": "twin"}], factorial=grid)
    assert len(ids(made)) == len(set(ids(made)))
    said = "twin budget=0.5 is the same as fastv budget=0.5; planned once, under the latter name"
    assert said in map(str, made.merged)
    axes = [
        {axis.removeprefix(LENT): value for axis, value in cell.variant.axes.items()}
        for cell in made.cells
        if cell.variant.axes.keys() & {"scorer", f"{LENT}scorer"}
    ]
    cells = {(of["scorer"], of["budget"]) for of in axes}
    assert cells == {(scorer, budget) for scorer in ("attention", "random") for budget in (0.5, 0.25)}


def test_what_resizes_images_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {**dict.fromkeys(identity.PACKAGES, "1"), "torchvision": "0.1"}
    monkeypatch.setattr(identity, "version", installed.__getitem__)
    assert identity.settings_identity(1, 1, 1, 0)["versions"] == installed

    def missing(package: str) -> str:
        raise identity.PackageNotFoundError(package)

    monkeypatch.setattr(identity, "version", missing)
    assert identity.settings_identity(1, 1, 1, 0)["versions"]["torchvision"] is None


def test_new_weights_in_the_same_folder_are_noticed_by_a_process_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = identity.fingerprint(tmp_path)
    assert identity.fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"three")
    assert identity.fingerprint(tmp_path) != first


def test_budgets_of_single_stages_give_baselines_too(plan) -> None:
    made = plan(recipes=[{"recipe": "fastv", "axes": {"stages.0.budget": [0.25, 0.125]}}], axes={})
    assert {cell.variant.axes["budget"] for cell in made.cells if cell.variant.label == "random"} == {0.25, 0.125}


def test_downsampling_needs_a_share(plan) -> None:
    made = plan(axes={"budget": [{"keep_tokens": 64}]})
    (refusal,) = made.refused
    assert refusal.what == "downsample budget=keep_tokens=64"
    assert refusal.expected


def test_faults_of_models_recipes_and_axes_come_together(plan) -> None:
    with pytest.raises(StudyError) as caught:
        plan(models=["testbed/nanu", "./nowhere"], recipes=["divprune"], axes={"stages.0.scorer.query": ["last"]})
    text = "\n".join(caught.value.problems)
    assert "testbed has no model 'nanu'" in text
    assert "model directory ./nowhere does not exist" in text
    assert "recipe 'divprune'" in text


def test_a_model_that_no_adapter_knows_is_named_beside_the_other_faults(plan, tmp_path: Path) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(StudyError) as caught:
        plan(models=[str(tmp_path), "testbed/nanu"], recipes=["fastv"])
    unsupported, unknown = caught.value.problems
    assert unsupported.startswith(f"model {str(tmp_path)!r}: ")
    assert "LlamaForCausalLM" in unsupported
    assert "testbed has no model 'nanu'" in unknown


def test_a_model_whose_adapter_does_not_fit_is_named(plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = replace(adapter_of(load_default()[0]), vision_tower="elsewhere.tower")
    monkeypatch.setattr(lookup, "adapter_of", lambda model, replacing=None: moved)
    with pytest.raises(StudyError, match=r"model .*: adapter 'llava' does not fit"):
        plan()


def test_a_recipe_that_replaces_the_adapter_by_an_unfit_one_is_refused(plan) -> None:
    stage = {"site": "projector.output", "scorer": "random", "budget": 0.5}
    swapped = {"label": "swapped", "recipe": {"replace": {"llava": "qwen2_5_vl"}, "stages": [stage]}}
    made = plan(recipes=["fastv", swapped])
    (refusal,) = made.refused
    assert (refusal.what, refusal.expected) == ("swapped", False)
    assert "which does not know Llava" in refusal.reason
    assert {cell.variant.label for cell in made.cells} >= {"full", "fastv"}


def test_a_task_without_samples_is_an_error(plan) -> None:
    with pytest.raises(StudyError, match="task 'fake' has no samples"):
        plan(tasks=[{"name": "fake", "length": 0}])


@pytest.mark.parametrize(
    ("tells", "limit", "size"), [(True, None, 8), (True, 5, 5), (True, 50, 8), (False, 50, 50), (False, None, None)]
)
def test_answers_are_counted_as_far_as_the_task_tells(plan, tells: bool, limit: int | None, size: int | None) -> None:
    made = plan(tasks=[{"name": "fake", "tells": tells}], limit=limit)
    assert made.samples == (None if size is None else size * len(made.cells))
    one = plan(tasks=[{"name": "fake", "tells": tells}], limit=1)
    expected = [] if size is None else [size * cost for cost in one.flops.values()]
    assert list(made.flops.values()) == pytest.approx(expected)
    shown = [next(iter(column.cells)) for column in plan_table(made).columns]
    assert shown[-2:] == (["all", "all"] if size is None else [str(size), str(made.samples)])


def test_faults_of_models_and_of_tasks_come_together(plan, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        plan(models=["testbed/nanu"], tasks=[{"name": "jsonl", "path": str(tmp_path)}, {"name": "fake", "length": 0}])
    model, questions, empty = caught.value.problems
    assert "testbed has no model 'nanu'" in model
    assert questions.startswith(
        f"task 'jsonl': the questions in {tmp_path} cannot be used:\n    - there is no questions"
    )
    assert empty == "task 'fake' has no samples"


def test_a_hub_id_is_pinned_to_the_cached_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--a--b"
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "snapshots" / commit / "config.json").write_text("{}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    identity._commit.cache_clear()
    notes: list[str] = []
    assert identity.pinned(ModelRef("a/b"), notes) == ModelRef("a/b", revision=commit)
    assert identity.pinned(ModelRef("a/elsewhere", revision=commit), notes) == ModelRef("a/elsewhere", revision=commit)
    assert notes == []
    assert identity.pinned(ModelRef("a/unknown"), notes) == ModelRef("a/unknown")
    (note,) = notes
    assert "a/unknown: which commit revision 'main' is cannot be found out (OSError: offline)" in note
    assert "{id: a/unknown, revision: COMMIT}" in note
    assert identity.model_identity(ModelRef("a/b", revision=commit))["revision"] == commit
    assert identity.model_identity(ModelRef("a/unknown"))["revision"] == "main"
    identity._commit.cache_clear()


def test_a_revision_that_was_not_to_be_had_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after an interruption of the network, in one process (a notebook)."""
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    answers: list[Any] = [ConnectionError("reset"), str(tmp_path / commit / "config.json")]

    def download(*_: Any, **__: Any) -> str:
        if isinstance(found := answers.pop(0), Exception):
            raise found
        return found

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    notes: list[str] = []
    assert identity.pinned(ModelRef("a/late", revision="v1"), notes).revision == "v1"
    assert identity.pinned(ModelRef("a/late", revision="v1"), notes).revision == commit
    assert identity.pinned(ModelRef("a/late", revision="v1"), notes).revision == commit
    assert ["'v1'" in note and "ConnectionError: reset" in note for note in notes] == [True]
    identity._commit.cache_clear()


def test_a_model_that_cannot_be_looked_at_is_planned_with_notes(plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def offline(*_: Any, **__: Any) -> None:
        nonlocal asked
        asked += 1
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", offline)
    made = plan(models=["nobody/nothing"], recipes=["fastv", DEEP])
    unpinned, unchecked = made.notes
    assert "nobody/nothing: which commit revision 'main' is cannot be found out (" in unpinned
    assert "could not be checked" in unchecked
    assert asked == 1, "the Hub, for its configuration"
    assert made.to_dict()["notes"] == list(made.notes)
    assert {cell.variant.label for cell in made.cells} >= {"fastv", "deep"}
    assert not made.flops


def test_a_testbed_model_is_known_by_its_weights(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    shutil.copytree(folder, tmp_path / "mini")
    found = identity.model_identity(ModelRef("testbed/mini", device="cpu"))
    assert (found["id"], found["weights"]) == ("testbed/mini", identity.fingerprint(folder))
    with pytest.raises(UnknownNameError, match="Did you mean 'mini'"):
        identity.model_identity(ModelRef("testbed/minu"))


class TestCost:
    @pytest.fixture
    def pair(self) -> tuple[PreTrainedModel, Any]:
        return load_default()

    def test_the_workload_of_a_model_is_what_its_run_reports(self, pair: tuple[PreTrainedModel, Any]) -> None:
        model, processor = pair
        samples = list(Fake(length=2).samples())
        with observe(model) as run, torch.inference_mode():
            model.generate(**encode(processor, samples), max_new_tokens=4, do_sample=False)
        report = run.report
        load = workload(model, processor, samples, 4)
        assert (load.vision, load.text) == (576, report.text_tokens[0])
        assert load.tower == pytest.approx(report.flops_parts["vision"] / 2, rel=0.01)
        assert sample_flops(model, load, Variant("full", "full")) == pytest.approx(report.flops / 2, rel=0.01)

    def test_less_budget_costs_less(self, plan) -> None:
        made = plan()
        cost = {cell.variant.name: made.flops[cell.id] for cell in made.cells}
        assert cost["full"] > cost["fastv budget=0.5"] > cost["fastv budget=0.25"] > cost["random budget=0.25 seed=0"]
        assert cost["random budget=0.25 seed=0"] > cost["downsample budget=0.25"]

    def test_stages_keep_their_budget_from_their_first_layer_on(self) -> None:
        stages = [
            {"site": "projector.output", "scorer": "random", "budget": 0.5},
            {"site": "llm.layers[2]", "scorer": "attention", "budget": {"keep_tokens": 20}},
            {"site": "llm.layers[0,3].kv", "scorer": "attention", "budget": 0.3},
        ]
        entering, cached = tokens_by_layer(100, {"stages": stages}, 4)
        assert entering == [50, 50, 20, 20]
        assert cached == [30, 50, 20, 20]
