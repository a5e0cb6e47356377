"""Train a model of the testbed: `python -m training.testbed.train nano --out DIR`.

A run writes DIR/log.jsonl and, every hundred steps, DIR/checkpoint.pt, and goes on from there when started again, on
the same device or another. A file DIR/next ends the current stage at its present step, which the log records: steps are
the plan's unless it says so.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.testbed import checkpoint
from training.testbed.data import IGNORED
from training.testbed.device import CPU, Compute, Precision, choose, default_workers, settle
from training.testbed.families import FAMILIES, Family
from training.testbed.feed import Feed, Step
from training.testbed.network import Heads, answered, by_type, evaluate, forward
from training.testbed.stages import PLANS, Draws, Plan, RunError, Stage
from vtprune.core.errors import LoadError
from vtprune.testbed.digits import digits
from vtprune.testbed.sequences import Kind

KINDS: Final[tuple[Kind, ...]] = ("image", "pair", "video")
_DENSE, _PRESENCE, _INNER = 0.3, 1.0, 0.1


def initialise(model: PreTrainedModel) -> None:
    """Wider than transformers' 0.02, which is too small for a width of 128; the residual branches start smaller, and
    wider models by the root of their width."""
    text = model.model.language_model
    matrix = 0.06 * math.sqrt(128 / text.config.hidden_size)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "vision_tower" not in name:
            nn.init.normal_(parameter, std=0.5 if "embed" in name else matrix)
    for layer in text.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.data.mul_(2 / math.sqrt(2 * len(text.layers)))


def optimizers(
    family: Family, model: PreTrainedModel, heads: Heads, *, fused: bool = False
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder layers, AdamW for the other weights, and last AdamW for the vision tower and
    the heads. fused: AdamW in one kernel, for CUDA; on a CPU it would round differently."""
    tower = set(map(id, family.tower(model).parameters()))
    named = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in tower]
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and ".layers." in name]
    others = [parameter for name, parameter in named if not (parameter.ndim == 2 and ".layers." in name)]
    seeing = [*family.tower(model).parameters(), *heads.parameters()]
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01, fused=fused or None),
        torch.optim.AdamW(seeing, lr=1.0, betas=(0.9, 0.98), weight_decay=0.05, fused=fused or None),
    ]


def rate(stage: Stage, step: int) -> float:
    """The learning rate of a step."""
    rate = stage.peak * min(1.0, (step + 1) / stage.warm)
    if stage.decay and step > stage.steps - stage.decay:
        done = 1 - (stage.steps - step) / stage.decay
        rate = stage.end + (stage.peak - stage.end) * 0.5 * (1 + math.cos(math.pi * done))
    return rate


def losses(
    family: Family,
    model: PreTrainedModel,
    heads: Heads,
    step: Step,
    stage: Stage,
    compute: Compute = CPU,
    *,
    look: bool,
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of one step and, with `look`, what to log of it."""
    position, batch = family.position, step.batch
    with compute.autocast():
        if not stage.language:
            _, features, cls = family.see(model, batch.frames, step.kind)
            dense, seen = heads.dense(0, features, batch, position=position, look=look)
            presence = heads.presence(cls, batch) if cls is not None else torch.zeros((), device=compute.device)
            return dense + 5 * presence, {**seen, "presence": presence.item()} if look else {}
        out = forward(family, model, batch, step.kind, step.keep)
        asked = batch.labels != IGNORED
        answer = F.cross_entropy(out.logits[asked].float(), batch.labels[asked])
        dense, seen = heads.dense(0, out.features, batch, position=position, look=look)
        loss = answer + _DENSE * dense
        if out.cls is not None:
            loss = loss + _PRESENCE * heads.presence(out.cls, batch)
        if out.inner is not None:
            loss = loss + _INNER * heads.dense(1, out.inner, batch, position=True, look=look)[0]
    if not look:
        return loss, {}
    return loss, {"answer": answer.item(), **seen, "types": by_type([(batch, answered(out.logits, batch))])}


def train(
    family: Family,
    plan: Plan,
    out: Path,
    *,
    seed: int = 0,
    compute: Compute = CPU,
    draws: Draws | None = None,
    workers: int = 0,
    compiled: bool = False,
    every: int = 100,
    held_out: int = 256,
) -> None:
    """Carry out a plan, or what is left of it, in the folder `out`.

    draws: the plan's if None. compiled: compile the decoder layers. every: steps between checkpoints. held_out: prompts
    of each kind for the quick look at accuracy after a stage.

    Raises:
        RunError: if the folder holds another run, or these draws allow no workers.
        FloatingPointError: if the loss is not finite at a step that is logged.
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    model, heads = family.build(), Heads(family.widths)
    initialise(model)  # on the CPU, so that every device starts from the same weights
    model.to(compute.device)
    heads.to(compute.device)
    for layer in model.model.language_model.layers if compiled else ():
        layer.compile(dynamic=True)
    tuners = optimizers(family, model, heads, fused=compute.cuda)
    draws = draws or plan.draws
    is_image = {kind: family.prompt(model, kind).is_image for kind in KINDS}
    feed = Feed(draws, seed + 1, is_image, compute, workers)
    digits("train"), digits("test")
    run = {"model": family.name, "seed": seed, "draws": draws}
    path = out / "checkpoint.pt"
    first, start, spent = 0, 0, 0.0
    if path.exists():
        saved = checkpoint.load(path, run)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
        for tuner, state in zip(tuners, saved["tuners"], strict=True):
            checkpoint.restore(tuner, state)
        feed.restore(saved["rng"])
        first, start, spent = saved["stage"], saved["step"], saved["seconds"]
    began = time.time() - spent

    def save(stage: int, step: int) -> None:
        state = {
            "run": run,
            "model": model.state_dict(),
            "heads": heads.state_dict(),
            "tuners": [tuner.state_dict() for tuner in tuners],
            "rng": feed.state(),
            "stage": stage,
            "step": step,
            "seconds": time.time() - began,
        }
        checkpoint.save(path, state)

    with (out / "log.jsonl").open("a", buffering=1) as log:

        def write(**entry: Any) -> None:
            log.write(json.dumps({"seconds": round(time.time() - began), **entry}) + "\n")

        write(started={**run, **compute.describe(), "workers": workers, "torch": torch.__version__})
        for number, stage in enumerate(plan.stages):
            if number < first:
                continue
            done = start if number == first else 0
            for step in feed.steps(number, stage, done):
                for tuner, share in zip(tuners, (1.0, 1.0, stage.tower), strict=True):
                    for group in tuner.param_groups:
                        group["lr"] = rate(stage, step.number) * share
                look = step.number % 20 == 0 or (step.kind != "image" and step.number % 40 < 8)
                loss, seen = losses(family, model, heads, step, stage, compute, look=look)
                loss.backward()
                nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
                for tuner in tuners:
                    tuner.step()
                    tuner.zero_grad(set_to_none=True)
                done = step.number + 1
                if look:
                    value = _finite(loss.item(), stage, step)
                    write(stage=stage.name, step=step.number, kind=step.kind, loss=round(value, 4), seen=_rounded(seen))
                if done % every == 0:
                    save(number, done)
                    if (out / "next").exists():
                        (out / "next").unlink()
                        break
            write(stage=stage.name, ended_at=done)
            save(number + 1, 0)
            if stage.language:
                for kind in KINDS if stage.sequences else KINDS[:1]:
                    accuracy = evaluate(family, model, kind, compute, prompts=held_out)
                    write(stage=stage.name, held_out=kind, accuracy=_rounded(accuracy))


def _finite(loss: float, stage: Stage, step: Step) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {step.number} of stage {stage.name!r}: go on from the last checkpoint with "
            "--precision float32, or lower the stage's peak learning rate in stages.py"
        )
    return loss


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    return round(values, 3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(FAMILIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda, cuda:1, ...")
    parser.add_argument("--precision", default="auto", help=f"of matrix products: {', '.join(get_args(Precision))}")
    parser.add_argument(
        "--tf32", action=argparse.BooleanOptionalAction, default=True, help="for float32 products on CUDA"
    )
    parser.add_argument(
        "--draws", choices=get_args(Draws), help="one random stream, or one a step (default: the plan's)"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that draw batches (default: 0; on CUDA, with --draws step, up to 8)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile", action="store_true", help="compile the decoder layers (needs a C++ compiler; on CUDA, Triton)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    plan = PLANS[options.model]
    draws: Draws = options.draws or plan.draws
    try:
        compute = choose(options.device, options.precision)
        settle(compute, tf32=options.tf32)
        train(
            FAMILIES[options.model],
            plan,
            options.out,
            seed=options.seed,
            compute=compute,
            draws=draws,
            workers=default_workers(compute, draws) if options.workers is None else options.workers,
            compiled=options.compile,
        )
    except (LoadError, RunError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
