"""Package a trained model: `python -m training.testbed.export nano --run DIR`.

Writes a folder NAME (weights in bfloat16, tokenizer, processor, model card, metrics.json), replaced only when all is
done. A model that comes with vtprune goes to vtprune/testbed/weights, its log to training/testbed/logs/NAME.jsonl,
and the tables of docs/testbed.md are renewed. Another one stays in DIR; `vtprune.testbed.load("DIR/NAME")` loads it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from training.testbed.card import around_tables, card, stages, started, write_tables
from training.testbed.device import CPU, Compute, choose
from training.testbed.families import FAMILIES, SHIPPED, Family
from training.testbed.measure import measure, runs
from training.testbed.package import write_folder
from vtprune.core.errors import LoadError
from vtprune.testbed import models
from vtprune.testbed.tasks import GENERATOR
from vtprune.testbed.vocabulary import WORDS

ROOT: Final = Path(__file__).resolve().parents[2]
LARGEST: Final = 8_000_000
LIBRARIES: Final = ("torch", "transformers", "numpy", "scikit-learn", "scipy")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(FAMILIES))
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--scenes", type=int, default=512, help="held-out scenes of each kind")
    parser.add_argument("--evaluation-seed", type=int, default=1000, help="seed of those scenes")
    parser.add_argument("--weights", type=Path, help="where the model's folder goes")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "testbed.md")
    parser.add_argument("--logs", type=Path, default=Path(__file__).parent / "logs")
    parser.add_argument(
        "--device", default="auto", help="measures: auto (CUDA if there is one), cpu, cuda, cuda:1, ..."
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    shipped = options.model in SHIPPED
    weights: Path = options.weights or (models.WEIGHTS if shipped else options.run)
    try:
        compute = choose(options.device, "float32")
    except LoadError as error:
        parser.error(str(error))
    if not shipped and weights.resolve() == models.WEIGHTS.resolve():
        parser.error(f"{options.model} does not come with vtprune: let its folder go elsewhere than {weights}")
    if shipped:
        around_tables(options.docs)  # fail before the measuring, not after
    weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=weights, prefix=".") as temporary:
        folder = Path(temporary) / options.model
        folder.mkdir()
        metrics = export(FAMILIES[options.model], options.run, folder, options.scenes, options.evaluation_seed, compute)
        final = weights / options.model
        if final.exists():
            shutil.rmtree(final)
        shutil.move(folder, final)
    if shipped:
        options.logs.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.run / "log.jsonl", options.logs / f"{options.model}.jsonl")
        every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(weights.glob("*/metrics.json"))]
        write_tables(options.docs, sorted(every, key=lambda one: one["model"], reverse=True))
    print(f"{final}: {metrics['bytes'] / 1e6:.2f} MB, {metrics['runs']['image/medium']['all']}")


def export(
    family: Family, run: Path, folder: Path, scenes: int, evaluation_seed: int, compute: Compute = CPU
) -> dict[str, Any]:
    """Write the model's folder and give what was measured, in float32.

    Raises:
        ValueError: if the checkpoint is of another model, or the weights of a shipped model are too large to ship.
    """
    name = family.name
    state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    if state["run"]["model"] != name:
        raise ValueError(f"{run / 'checkpoint.pt'} is of model {state['run']['model']!r}: expected {name!r}")
    write_folder(family, state["model"], folder)
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    size = weights.stat().st_size
    if name in SHIPPED and size > LARGEST:
        raise ValueError(f"{weights.name} has {size:,} bytes: at most {LARGEST:,} are shipped; train a smaller model")
    model, processor = models.load_folder(folder)
    model.to(compute.device)
    measured = {}
    for kind, task in runs(name, scenes, evaluation_seed).items():
        began = time.time()
        measured[kind] = measure(model, processor, task)
        print(f"{kind}: {measured[kind]['all']} in {time.time() - began:.0f} s", flush=True)
    metrics = {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(WORDS),
        "bytes": size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "generator": GENERATOR,
        "seed": state["run"]["seed"],
        "commit": commit(),
        "versions": {library: version(library) for library in LIBRARIES},
        "dtype": "float32",
        "device": compute.describe()["device"],
        "started": started(run / "log.jsonl"),
        "evaluation_seed": evaluation_seed,
        "stages": stages(run / "log.jsonl"),
        "runs": measured,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(metrics), encoding="utf-8")
    return metrics


def commit() -> str:
    """The current commit, with ``-dirty`` if tracked files differ from it; ``unknown`` outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
