"""Runs of a few steps of a small edition of the larger plan: devices, batches, checkpoints, the packaged model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.testbed import checkpoint, device, export
from training.testbed import train as training
from training.testbed.device import CPU, Compute, choose, default_workers
from training.testbed.families import FAMILIES, LARGE, SMALL, Family, Llava, Size
from training.testbed.feed import Feed, Step, draw_step
from training.testbed.measure import encode
from training.testbed.network import Heads
from training.testbed.stages import PLANS, Plan, RunError, Stage
from training.testbed.train import KINDS, initialise, losses, main, optimizers, train
from vtprune import testbed
from vtprune.core.errors import LoadError
from vtprune.testbed.tasks import Testbed

TINY = Size(48, 64, 3, 3, 1, tower_width=32, tower_inner=64, tower_layers=2, tower_heads=2)
SHORT = tuple(
    replace(stage, steps=steps, scenes=4, questions=3, warm=1, decay=min(stage.decay, steps), drop=stage.drop * 3)
    for stage, steps in zip(PLANS["mini"].stages, (2, 1, 0, 6), strict=True)
)
PLAN = replace(PLANS["mini"], stages=SHORT)


def family() -> Family:
    return Llava("mini", TINY)


def run(out: Path, plan: Plan = PLAN, **options: Any) -> dict[str, Any]:
    """Train and give the checkpoint."""
    train(family(), plan, out, **{"every": 1000, "held_out": 0, **options})
    return read(out)


def read(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return state


def logged(out: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, list):
        for one in value:
            yield from tensors(one)


def same(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert pairs
    return all(torch.equal(left, right) for left, right in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not stopped."""
    out = tmp_path_factory.mktemp("whole")
    run(out, held_out=16)
    return out


class TestDevice:
    def cuda(self, monkeypatch: pytest.MonkeyPatch, count: int, *, bfloat16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0) if bfloat16 else (7, 5))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")

    def test_auto_is_cuda_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda(monkeypatch, 2)
        assert choose("auto") == choose("cuda") == Compute(torch.device("cuda", 0), torch.bfloat16)
        assert choose("cuda:1", "float32") == Compute(torch.device("cuda", 1), torch.float32)
        assert choose("cpu") == CPU
        self.cuda(monkeypatch, 0)
        assert choose("auto") == CPU
        assert CPU.dtype == torch.float32

    def test_a_device_that_is_not_there_is_no_other_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda(monkeypatch, 0)
        with pytest.raises(LoadError, match="'cuda' is not here: PyTorch sees 0 CUDA devices"):
            choose("cuda")
        self.cuda(monkeypatch, 1)
        with pytest.raises(LoadError, match="'cuda:1' is not here"):
            choose("cuda:1")
        with pytest.raises(LoadError, match="unknown device 'gpu'"):
            choose("gpu")
        with pytest.raises(LoadError, match="'meta' is not one that training knows"):
            choose("meta")

    def test_precision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda(monkeypatch, 1, bfloat16=False)
        assert choose("cuda").dtype == torch.float32
        with pytest.raises(LoadError, match="Some GPU has no bfloat16"):
            choose("cuda", "bfloat16")
        with pytest.raises(LoadError, match="unknown precision 'half'; use auto, float32, bfloat16"):
            choose("cpu", "half")  # type: ignore[arg-type]
        assert choose("cpu", "bfloat16").dtype == torch.bfloat16

    def test_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: range(6))
        cuda = Compute(torch.device("cuda", 0))
        assert default_workers(cuda, "step") == 5
        assert default_workers(cuda, "sequence") == default_workers(CPU, "step") == 0

    def test_the_command_names_the_fault(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for wrong, said in (
            (["--device", "cuda:99"], "device 'cuda:99' is not here"),
            (["--device", "cpu", "--workers", "2", "--draws", "sequence"], "cannot share one random stream"),
        ):
            with pytest.raises(SystemExit) as stopped:
                main(["nano", "--out", str(tmp_path), *wrong])
            assert stopped.value.code == 2
            assert said in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["mini", "mrope"])
    @pytest.mark.parametrize("step", [0, 3, 4])
    def test_a_step_makes_no_tensor_on_another_device(self, name: str, step: int) -> None:
        """What is made without a device goes to another one here, and cannot be mixed with the rest."""
        one = family() if name == "mini" else FAMILIES[name]
        stage = Stage("any", 9, scenes=4, questions=3, drop=0.0 if step else 1.0, sequences=8)
        model, heads, drawn = build(one, stage, step)
        for case in (stage, replace(stage, language=False)):
            expected = losses(one, model, heads, drawn, case, look=False)[0]
            with torch.device("meta"):
                found = losses(one, model, heads, drawn, case, look=False)[0]
                found.backward()
            assert found.device.type == "cpu"
            assert torch.equal(found, expected)

    def test_bfloat16_is_used(self) -> None:
        model, heads, step = build(family(), SHORT[1], 0)
        exact, rough = (
            losses(family(), model, heads, step, SHORT[1], Compute(CPU.device, dtype), look=False)[0].item()
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert exact != rough
        assert exact == pytest.approx(rough, rel=0.02)

    def test_looking_changes_no_loss(self) -> None:
        model, heads, step = build(family(), SHORT[1], 0)
        (one, nothing), (other, seen) = (
            losses(family(), model, heads, step, SHORT[1], look=look) for look in (False, True)
        )
        assert torch.equal(one, other)
        assert nothing == {}
        assert {"answer", "digit", "types"} <= seen.keys()


def build(one: Family, stage: Stage, step: int, seed: int = 0) -> tuple[Any, Heads, Step]:
    torch.manual_seed(seed)
    model, heads = one.build(), Heads(one.widths)
    initialise(model)
    is_image = {kind: one.prompt(model, kind).is_image for kind in KINDS}
    return model, heads, draw_step(np.random.default_rng(seed), stage, step, is_image)


class TestFeed:
    def drawn(self, workers: int, start: int = 0, seed: int = 3) -> list[Step]:
        model = family().build()
        is_image = {kind: family().prompt(model, kind).is_image for kind in KINDS}
        return list(Feed("step", seed, is_image, workers=workers).steps(3, SHORT[3], start))

    def equal(self, one: Step, other: Step) -> bool:
        assert (one.number, one.kind, one.batch.questions) == (other.number, other.kind, other.batch.questions)
        assert (one.keep is None) == (other.keep is None)
        return same({**vars(one.batch), "keep": one.keep}, {**vars(other.batch), "keep": other.keep})

    def test_batches_do_not_depend_on_the_number_of_workers(self) -> None:
        alone, shared = self.drawn(0), self.drawn(2)
        assert [step.number for step in alone] == list(range(6))
        assert {step.kind for step in alone} == set(KINDS)
        assert {step.keep is None for step in alone} == {True, False}
        assert all(self.equal(one, other) for one, other in zip(alone, shared, strict=True))

    def test_a_step_does_not_depend_on_those_before(self) -> None:
        assert all(self.equal(one, other) for one, other in zip(self.drawn(0)[2:], self.drawn(0, 2), strict=True))

    def test_steps_and_seeds_differ(self) -> None:
        drawn, other = self.drawn(0), self.drawn(0, seed=4)
        assert not torch.equal(drawn[0].batch.frames, drawn[1].batch.frames)
        assert not torch.equal(drawn[0].batch.frames, other[0].batch.frames)

    def test_one_stream_goes_from_step_to_step(self) -> None:
        """The shipped models were trained on these batches."""
        model = family().build()
        is_image = {kind: family().prompt(model, kind).is_image for kind in KINDS}
        found = list(Feed("sequence", 3, is_image).steps(3, SHORT[3]))
        rng = np.random.default_rng(3)
        assert all(self.equal(draw_step(rng, SHORT[3], number, is_image), step) for number, step in enumerate(found))

    def test_one_stream_has_no_workers(self) -> None:
        with pytest.raises(RunError, match="2 workers cannot share one random stream"):
            Feed("sequence", 0, {}, workers=2)
        with pytest.raises(RunError, match="-1 workers"):
            Feed("step", 0, {}, workers=-1)


class TestRun:
    @pytest.mark.parametrize("draws", ["step", "sequence"])
    def test_going_on_is_not_stopping(self, whole: Path, tmp_path: Path, draws: Any, monkeypatch: Any) -> None:
        """Stopped in the middle of the last stage, after a checkpoint and two steps that are lost."""
        expected = read(whole) if draws == "step" else run(tmp_path / "whole", draws=draws)
        real, calls = training.losses, 0

        def stopping(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 9:
                raise KeyboardInterrupt
            return real(*args, **options)

        out = tmp_path / "stopped"
        monkeypatch.setattr(training, "losses", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(out, draws=draws, every=3)
        assert (read(out)["stage"], read(out)["step"]) == (3, 3)
        monkeypatch.setattr(training, "losses", real)
        found = run(out, draws=draws, workers=0)
        for part in ("model", "heads", "tuners"):
            assert same(found[part], expected[part]), part
        assert found["rng"] == expected["rng"]

    def test_the_log(self, whole: Path) -> None:
        entries = logged(whole)
        assert entries[0]["started"]["device"] == "CPU"
        assert entries[0]["started"]["precision"] == "float32"
        assert [(e["stage"], e["ended_at"]) for e in entries if "ended_at" in e] == [
            ("vision", 2),
            ("single", 1),
            ("mixed", 0),
            ("decay", 6),
        ]
        assert {e["kind"] for e in entries if "loss" in e} == set(KINDS)

    def test_training_changes_every_weight(self, whole: Path) -> None:
        torch.manual_seed(0)
        before = family().build()
        initialise(before)
        after = read(whole)["model"]
        still = [name for name, value in before.state_dict().items() if torch.equal(value, after[name])]
        assert still == []

    def test_another_run_is_not_gone_on_with(self, whole: Path) -> None:
        with pytest.raises(RunError, match="is of another run \\(seed 0, now 1\\)"):
            train(family(), PLAN, whole, seed=1)
        with pytest.raises(RunError, match="draws 'step', now 'sequence'"):
            train(family(), PLAN, whole, draws="sequence")

    def test_next_ends_a_stage(self, tmp_path: Path) -> None:
        (tmp_path / "next").touch()
        run(tmp_path, every=1)
        assert [e["ended_at"] for e in logged(tmp_path) if "ended_at" in e] == [1, 1, 0, 6]
        assert not (tmp_path / "next").exists()

    def test_a_loss_that_is_not_finite_ends_the_run(self, tmp_path: Path) -> None:
        broken = (replace(SHORT[0], steps=21, peak=float("inf"), scenes=1),)
        with pytest.raises(FloatingPointError, match="step 20 of stage 'vision'"):
            run(tmp_path, replace(PLAN, stages=broken))

    def test_a_state_of_a_fused_optimiser_goes_to_one_that_is_not(self) -> None:
        """As from CUDA to a CPU and back."""
        model, heads, _ = build(family(), SHORT[0], 0)
        tuners = {fused: optimizers(family(), model, heads, fused=fused) for fused in (True, False)}
        for parameter in [*model.parameters(), *heads.parameters()]:
            parameter.grad = torch.ones_like(parameter)
        for tuner in tuners[True]:
            tuner.step()
        for fused, plain in zip(tuners[True], tuners[False], strict=True):
            saved = checkpoint.on_cpu(fused.state_dict())
            checkpoint.restore(plain, saved)
            assert not any(group.get("fused") for group in plain.param_groups)
            assert same(plain.state_dict()["state"], saved["state"])
            plain.step()


class TestPackage:
    def test_a_run_becomes_a_model_that_answers(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(FAMILIES, "mini", family())
        monkeypatch.setattr(export, "runs", lambda *_: KINDS_MEASURED)
        monkeypatch.setattr(export, "card", lambda metrics: json.dumps(metrics))
        export.main(["mini", "--run", str(whole), "--scenes", "1", "--device", "cpu"])
        folder = whole / "mini"
        plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(folder)
        weights = read(whole)["model"]
        assert all(torch.equal(value, weights[name].bfloat16().float()) for name, value in plain.state_dict().items())
        sample = next(iter(Testbed(scenes=1).samples()))
        inputs = encode(processor, [sample])
        made = plain.generate(**inputs, max_new_tokens=3)
        assert made.shape[1] > inputs["input_ids"].shape[1]
        ours, _ = testbed.load(folder)
        assert torch.equal(ours.generate(**inputs, max_new_tokens=3), made)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["parameters"] == sum(value.numel() for value in plain.parameters())
        assert (metrics["device"], metrics["seed"], metrics["started"][0]["draws"]) == ("CPU", 0, "step")
        with pytest.raises(LoadError, match=r"the model is in .*mini"):
            testbed.load(whole)

    def test_a_checkpoint_of_another_model(self, whole: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="is of model 'mini': expected 'nano'"):
            export.export(FAMILIES["nano"], whole, tmp_path, 1, 0)

    def test_the_larger_model_does_not_go_where_the_shipped_ones_are(
        self, whole: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            export.main(["mini", "--run", str(whole), "--weights", str(export.models.WEIGHTS), "--device", "cpu"])
        assert "does not come with vtprune" in capsys.readouterr().err


KINDS_MEASURED = {"image/medium": Testbed(scenes=1, questions=2)}


def test_the_larger_plan() -> None:
    """What the documentation says of it."""
    with torch.device("meta"):
        large = sum(parameter.numel() for parameter in FAMILIES["mini"].build().parameters())
    assert 20e6 < large < 25e6
    assert LARGE.layers == 12
    assert LARGE.width // LARGE.heads == SMALL.width // SMALL.heads
    assert {stage.name for stage in PLANS["mini"].stages} == {stage.name for stage in PLANS["nano"].stages}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCuda:
    @pytest.mark.parametrize("precision", ["float32", "auto"])
    def test_the_losses_are_those_of_the_cpu(self, tmp_path: Path, precision: Any) -> None:
        found = {}
        for name, compute in (("cpu", CPU), ("cuda", choose("cuda", precision))):
            run(tmp_path / name, compute=compute, workers=2)
            found[name] = [entry["loss"] for entry in logged(tmp_path / name) if "loss" in entry]
        tolerance = 1e-3 if precision == "float32" else 3e-2
        assert found["cuda"] == pytest.approx(found["cpu"], rel=tolerance)

    def test_a_run_goes_on_elsewhere(self, whole: Path, tmp_path: Path) -> None:
        """From a checkpoint of the first stages on CUDA to a CPU and back."""
        cuda = choose("cuda", "float32")
        for count, compute in ((1, cuda), (2, CPU), (4, cuda)):
            state = run(tmp_path, replace(PLAN, stages=SHORT[:count]), compute=compute)
        assert all(value.device.type == "cpu" for value in tensors(state))
        for name, value in read(whole)["model"].items():
            assert torch.allclose(state["model"][name], value, atol=5e-3), name
