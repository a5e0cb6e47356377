"""What is written about a model: its card, and the accuracy tables of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from training.testbed.families import SHIPPED

FROM: Final = "<!-- accuracy: written by training.testbed.export -->"
TO: Final = "<!-- end of accuracy -->"
KINDS: Final = ("image/easy", "image/medium", "image/hard", "pair", "video")
_ARCHITECTURES: Final = {
    "nano": "`LlavaForConditionalGeneration`: CLIP tower with CLS (4 layers x 128, patches of 4 pixels, features of "
    "the last layer but one, CLS dropped), two-layer MLP projector, Llama (8 layers x 128, 4 heads, 2 KV heads, untied "
    "head). 48 x 48 pixels become 144 vision tokens. A video is shown as four images.",
    "mini": "`LlavaForConditionalGeneration`: CLIP tower with CLS (6 layers x 256, patches of 4 pixels, features of "
    "the last layer but one, CLS dropped), two-layer MLP projector, Llama (12 layers x 384, 12 heads, 4 KV heads, "
    "untied head). 48 x 48 pixels become 144 vision tokens. A video is shown as four images.",
    "mrope": "`Qwen2_5_VLForConditionalGeneration`: tower without CLS (4 layers x 64, window attention but for the "
    "last layer, patches of 2 pixels), 2 x 2 merger, M-RoPE language model (8 layers x 128, 4 heads, 2 KV heads, "
    "untied head). 48 x 48 pixels become 144 vision tokens; a video of 8 frames becomes 4 x 144.",
}

_PLAIN: Final = "The folder loads with plain transformers as well: `AutoModelForImageTextToText` and `AutoProcessor`."
_LOADING: Final = {
    "nano": _PLAIN,
    "mini": _PLAIN,
    "mrope": "The folder loads with plain transformers as well: `AutoModelForImageTextToText`, and `AutoProcessor` "
    "where torchvision is installed (not tried).",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(entry: Mapping[str, float] | None, *, wide: bool = True) -> str:
    """``96.7 (95.9 to 97.4)``."""
    if entry is None:
        return ""
    bounds = f" ({entry['low']:.1%} to {entry['high']:.1%})".replace("%", "") if wide else ""
    return f"{entry['accuracy']:.1%}".replace("%", "") + bounds


def accuracy_table(metrics: Mapping[str, Any]) -> str:
    """Groups and types of one model by kind of prompt: three levels of image, then pairs and videos."""
    runs: dict[str, Any] = {kind: metrics["runs"][kind] for kind in KINDS}
    image = [kind for kind in KINDS if kind.startswith("image/")]
    header = ["", *(kind.removeprefix("image/") for kind in image), "guess", "questions"]
    first = runs[image[0]]
    rows = [["**all**", *(percent(runs[kind]["all"]) for kind in image), "", _counts(runs, image, "all")]]
    for part, mark in (("groups", "**"), ("types", "`")):
        for name in first[part]:
            entries = [runs[kind][part].get(name) for kind in image]
            counts = " / ".join(str(entry["n"]) for entry in entries if entry)
            rows.append(
                [f"{mark}{name}{mark}", *map(percent, entries), _guess(runs["image/medium"][part].get(name)), counts]
            )
    parts = [table(header, rows)]
    others = [
        [f"{kind}: `{name}`" if name else f"**{kind}**", percent(entry), _guess(entry), str(entry["n"])]
        for kind in ("pair", "video")
        for name, entry in [("", runs[kind]["all"]), *runs[kind]["types"].items()]
    ]
    parts.append(table(["", "accuracy", "guess", "questions"], others))
    return "\n\n".join(parts)


def _guess(entry: Mapping[str, float] | None) -> str:
    """The share of a type's most frequent answer, if the entry is of a type."""
    return f"{entry['guess']:.0%}".replace("%", "") if entry and "guess" in entry else ""


def _counts(runs: Mapping[str, Any], kinds: Sequence[str], part: str) -> str:
    return " / ".join(str(runs[kind][part]["n"]) for kind in kinds)


def stages(log: Path) -> list[dict[str, Any]]:
    """Steps and seconds of each stage, from the training log."""
    found: list[dict[str, Any]] = []
    before = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "ended_at" in entry:
            found.append({"stage": entry["stage"], "steps": entry["ended_at"], "seconds": entry["seconds"] - before})
            before = entry["seconds"]
    return found


def started(log: Path) -> list[dict[str, Any]]:
    """On what a run was carried out: one entry for each different machine or setting it was started with."""
    entries = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    found: list[dict[str, Any]] = []
    for entry in entries:
        if "started" in entry and entry["started"] not in found:
            found.append(entry["started"])
    return found


def card(metrics: Mapping[str, Any]) -> str:
    """The model card, Markdown with the front matter that model hubs read."""
    name = metrics["model"]
    trained = table(
        ["stage", "steps", "seconds"],
        [[stage["stage"], str(stage["steps"]), str(stage["seconds"])] for stage in metrics["stages"]],
    )
    on = f", {metrics['device']}" if "device" in metrics else ""
    ran = "".join(
        f"- {one['device']}, {one['precision']}, draws `{one['draws']}`, torch {one['torch']}\n"
        for one in metrics.get("started", ())
    )
    shipped = name in SHIPPED
    source = ", that comes with vtprune" if shipped else " by the scripts of vtprune"
    where = name if shipped else f"path/to/{name}"
    versions = ", ".join(f"{library} {version}" for library, version in metrics["versions"].items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [vtprune, testbed]
---
# {name}

A miniature vision-language model, trained from scratch on made-up scenes{source}. It answers short
questions about coloured handwritten digits and is there to study *mechanisms* of vision-token pruning: where attention
lands, what positions, counts and several answer words need, what a method costs. It is **not** a predictor of how
methods rank on a model of seven billion weights, and it knows nothing but its {metrics["vocabulary"]} words.

{_ARCHITECTURES[name]}

- {metrics["parameters"]:,} parameters, bfloat16, {metrics["bytes"] / 1e6:.1f} MB
- SHA-256 of `model.safetensors`: `{metrics["sha256"]}`

```python
from vtprune import testbed

model, processor = testbed.load("{where}")  # float32; the processor needs no torchvision
```

{_LOADING[name]}

## Training data

Scenes are drawn anew for every step by `vtprune.testbed.scenes` and questions by `vtprune.testbed.questions` and
`vtprune.testbed.sequences`: a 4 x 4 grid of cells with 3 to 15 coloured digits over a cluttered background, pairs of
such scenes, and videos of four moments. The digits are those of scikit-learn's `load_digits`: *Optical Recognition of
Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998), licensed CC BY 4.0. 1,397 of
the 1,797 images are for training, joined by rotated, sheared and scaled copies; the other 400 appear in evaluation
only.

## Training

{trained}

The first stage trains the tower on dense labels (digit and colour of each patch, with a CLIP tower also its row and
column and, from CLS, which digits are there); the others train everything on questions, `decay` with a random part of
the vision tokens left out in some steps. Muon for the matrices of the decoder layers, AdamW for the rest. Another
processor rounds differently, and a second run there gives other weights.

- seed {metrics["seed"]}, {versions}
{ran}- commit `{metrics["commit"]}`

    python -m training.testbed.train {name} --out runs/{name} --seed {metrics["seed"]}
    python -m training.testbed.export {name} --run runs/{name}

## Accuracy without pruning

Per cent of exact answers by `generate` (greedy, {metrics["dtype"]}{on}) on held-out digits: evaluation seed
{metrics["evaluation_seed"]}, {metrics["runs"]["image/medium"]["scenes"]} scenes of each kind. In brackets 95 %
intervals that take the questions of a scene together. A group is the mean of its types; *guess* is the share of a
type's most frequent answer (of images: at level medium).

{accuracy_table(metrics)}

## Limits

One training run; another seed would give other numbers. Prompts have the layout of training: one scene, `first` and
`second` scene, or a video, then one question in the words of the vocabulary. Digits at 48 x 48 pixels, nothing else.
"""


def around_tables(page: Path) -> tuple[str, str]:
    """What stands before and after the tables of a page. Raises ValueError if it has no place for them."""
    text = page.read_text(encoding="utf-8")
    if text.count(FROM) != 1 or text.count(TO) != 1:
        raise ValueError(f"{page} must have the lines {FROM} and {TO} once each, for the tables to stand between")
    return text[: text.index(FROM)], text[text.index(TO) + len(TO) :]


def write_tables(page: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Replace what stands between the markers of a page by the tables of all models."""
    before, after = around_tables(page)
    tables = "\n\n".join(f"#### `{one['model']}`\n\n{accuracy_table(one)}" for one in metrics)
    page.write_text(f"{before}{FROM}\n\n{tables}\n\n{TO}{after}", encoding="utf-8")
