"""Train a model of the testbed: `python -m training.testbed.train nano --out DIR`.

A run writes DIR/log.jsonl and, every hundred steps, DIR/checkpoint.pt, and goes on from there when started again. A
file DIR/next ends the current stage at its present step, which the log records: steps are the plan's unless it says so.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.testbed.data import HARD_MIX, IGNORED, TRAINING_MIX, Batch, draw
from training.testbed.families import FAMILIES, Mrope, Nano, Prompt
from training.testbed.network import BFLOAT16, Heads, answered, by_type, evaluate, forward
from training.testbed.stages import PLANS, Stage
from vtprune.testbed.digits import digits
from vtprune.testbed.scenes import LEVELS
from vtprune.testbed.sequences import Kind

_DENSE, _PRESENCE, _INNER = 0.3, 1.0, 0.1


def initialise(model: PreTrainedModel) -> None:
    """Wider than transformers' 0.02, which is too small for a width of 128; the residual branches start smaller."""
    text = model.model.language_model
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "vision_tower" not in name:
            nn.init.normal_(parameter, std=0.5 if "embed" in name else 0.06)
    for layer in text.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.data.mul_(2 / math.sqrt(2 * len(text.layers)))


def optimizers(family: Nano | Mrope, model: PreTrainedModel, heads: Heads) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder layers, AdamW for the other weights, and last AdamW for the vision tower and
    the heads."""
    tower = set(map(id, family.tower(model).parameters()))
    named = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in tower]
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and ".layers." in name]
    others = [parameter for name, parameter in named if not (parameter.ndim == 2 and ".layers." in name)]
    seeing = [*family.tower(model).parameters(), *heads.parameters()]
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.AdamW(seeing, lr=1.0, betas=(0.9, 0.98), weight_decay=0.05),
    ]


def rate(stage: Stage, step: int) -> float:
    """The learning rate of a step."""
    rate = stage.peak * min(1.0, (step + 1) / stage.warm)
    if stage.decay and step > stage.steps - stage.decay:
        done = 1 - (stage.steps - step) / stage.decay
        rate = stage.end + (stage.peak - stage.end) * 0.5 * (1 + math.cos(math.pi * done))
    return rate


def kept(rng: np.random.Generator, prompt: Prompt, prompts: int) -> Tensor:
    """A random part of the image tokens, 1/12 to all of them: bool `[prompt, prefix]`."""
    images = int(prompt.is_image.sum())
    count = int(rng.integers(images // 12, images))
    drawn = torch.from_numpy(rng.random((prompts, images))).argsort(1).argsort(1) < count
    keep = torch.ones(prompts, len(prompt.ids), dtype=torch.bool)
    keep[:, prompt.is_image] = drawn
    return keep


def losses(
    family: Nano | Mrope,
    model: PreTrainedModel,
    heads: Heads,
    batch: Batch,
    kind: Kind,
    stage: Stage,
    keep: Tensor | None,
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of one step and what to log of it."""
    position = isinstance(family, Nano)
    with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
        if not stage.language:
            _, features, cls = family.see(model, batch.frames, kind)
            dense, seen = heads.dense(0, features, batch, position=position)
            presence = heads.presence(cls, batch) if cls is not None else torch.zeros(())
            return dense + 5 * presence, {**seen, "presence": presence.item()}
        out = forward(family, model, batch, kind, keep)
        asked = batch.labels != IGNORED
        answer = F.cross_entropy(out.logits[asked].float(), batch.labels[asked])
        dense, seen = heads.dense(0, out.features, batch, position=position)
        loss = answer + _DENSE * dense
        if out.cls is not None:
            loss = loss + _PRESENCE * heads.presence(out.cls, batch)
        if out.inner is not None:
            loss = loss + _INNER * heads.dense(1, out.inner, batch, position=True)[0]
    return loss, {"answer": answer.item(), **seen, "types": by_type([(batch, answered(out.logits, batch))])}


def next_batch(rng: np.random.Generator, stage: Stage, step: int) -> tuple[Kind, Batch]:
    """What a step learns from; pairs and videos come in turns, with fewer prompts for their more images."""
    if stage.sequences and step % stage.sequences in (3, 4):
        kind: Kind = "pair" if step % stage.sequences == 3 else "video"
        count = stage.scenes // 2 if kind == "pair" else stage.scenes // 4
        return kind, draw(rng, kind, count, 8)
    mix = HARD_MIX if stage.hard else TRAINING_MIX
    names = list(stage.levels)
    bounds = np.cumsum(list(stage.levels.values()))
    level = LEVELS[names[int(np.searchsorted(bounds, rng.random() * 0.999))]]  # type: ignore[index]
    return "image", draw(rng, "image", stage.scenes, stage.questions if stage.language else 1, level=level, mix=mix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(FAMILIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers (needs a C++ compiler)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[options.model]
    model, heads = family.build(), Heads()
    initialise(model)
    for layer in model.model.language_model.layers if options.compile else ():
        layer.compile(dynamic=True)
    tuners = optimizers(family, model, heads)
    rng = np.random.default_rng(options.seed + 1)
    digits("train"), digits("test")
    checkpoint = options.out / "checkpoint.pt"
    first, start, spent = 0, 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
        for tuner, state in zip(tuners, saved["tuners"], strict=True):
            tuner.load_state_dict(state)
        rng.bit_generator.state = saved["rng"]
        first, start, spent = saved["stage"], saved["step"], saved["seconds"]
    began = time.time() - spent
    log = (options.out / "log.jsonl").open("a", buffering=1)

    def save(stage: int, step: int) -> None:
        state = {
            "model": model.state_dict(),
            "heads": heads.state_dict(),
            "tuners": [tuner.state_dict() for tuner in tuners],
            "rng": rng.bit_generator.state,
            "stage": stage,
            "step": step,
            "seconds": time.time() - began,
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)

    def write(**entry: Any) -> None:
        log.write(json.dumps({"seconds": round(time.time() - began), **entry}) + "\n")

    for number, stage in enumerate(PLANS[options.model]):
        if number < first:
            continue
        for step in range(start if number == first else 0, stage.steps):
            for tuner, share in zip(tuners, (1.0, 1.0, stage.tower), strict=True):
                for group in tuner.param_groups:
                    group["lr"] = rate(stage, step) * share
            kind, batch = next_batch(rng, stage, step)
            keep = None
            if rng.random() < stage.drop:
                keep = kept(rng, family.prompt(model, kind), len(batch.words))
            loss, seen = losses(family, model, heads, batch, kind, stage, keep)
            loss.backward()
            nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
            for tuner in tuners:
                tuner.step()
                tuner.zero_grad(set_to_none=True)
            if step % 20 == 0 or (kind != "image" and step % 40 < 8):
                write(stage=stage.name, step=step, kind=kind, loss=round(loss.item(), 4), seen=_rounded(seen))
            if step % 100 == 99:
                save(number, step + 1)
                if (options.out / "next").exists():
                    (options.out / "next").unlink()
                    break
        write(stage=stage.name, ended_at=step + 1)
        save(number + 1, 0)
        if stage.language:
            for kind in ("image", "pair", "video") if stage.sequences else ("image",):
                write(stage=stage.name, held_out=kind, accuracy=_rounded(evaluate(family, model, kind)))


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    return round(values, 3)


if __name__ == "__main__":
    main()
