"""Accuracy of a packaged model by `generate`, question by question as a user would ask, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from training.testbed.families import FAMILIES, Llava
from vtprune.core.task import Sample, Video
from vtprune.testbed.tasks import Testbed

Z: Final = 1.959964
BATCH: Final = 64


def runs(model: str, scenes: int, seed: int) -> dict[str, Testbed]:
    """What a model is measured on; a LLaVA sees a video as one image per moment."""
    levels = {f"image/{level}": Testbed(level=level, scenes=scenes, seed=seed) for level in ("easy", "medium", "hard")}
    frames: Literal["images", "native"] = "images" if isinstance(FAMILIES[model], Llava) else "native"
    return {
        **levels,
        "pair": Testbed(variant="pair", scenes=scenes, seed=seed),
        "video": Testbed(variant="video", frames=frames, scenes=scenes, seed=seed),
    }


def batches(samples: Iterator[Sample], size: int = BATCH) -> Iterator[list[Sample]]:
    """Lists of up to `size` samples."""
    while batch := list(islice(samples, size)):
        yield batch


def encode(processor: Any, samples: Sequence[Sample]) -> Any:
    """The inputs of `generate` for a batch of samples."""
    texts, images, videos, rates = [], [], [], []
    for sample in samples:
        parts = []
        for part in sample.content:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            elif isinstance(part, Video):
                parts.append({"type": "video"})
                videos.append(list(part.frames))
                rates.append(part.fps)
            else:
                parts.append({"type": "image"})
                images.append(part)
        texts.append(processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True))
    visuals: dict[str, Any] = {"images": images} if images else {}
    if videos:
        visuals |= {"videos": videos, "fps": rates}
    return processor(text=texts, padding=True, return_tensors="pt", **visuals)


@torch.no_grad()
def answers(model: Any, processor: Any, task: Testbed) -> Iterator[tuple[Sample, str]]:
    """Each sample and what the model answers to it."""
    for batch in batches(iter(task.samples())):
        inputs = encode(processor, batch).to(model.device)
        made = model.generate(**inputs, do_sample=False, max_new_tokens=task.max_new_tokens)
        said = processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        yield from zip(batch, said, strict=True)


def measure(model: Any, processor: Any, task: Testbed) -> dict[str, Any]:
    """Accuracy of all questions, of each type and of each group (the mean of its types), with 95 % intervals;
    for a type also the share of its most frequent answer (``guess``).

    A type that no scene has (``list`` in scenes of many digits) is left out."""
    scored = [(sample, task.score(sample, said)) for sample, said in answers(model, processor, task)]
    right = np.array([score for _, score in scored])
    types = np.array([sample.type for sample, _ in scored])
    scenes = np.unique([sample.group for sample, _ in scored], return_inverse=True)[1]

    def of(chosen: NDArray[np.bool_], strata: NDArray) -> dict[str, float]:
        return interval(right[chosen], strata[chosen], scenes[chosen])

    said = np.array([sample.references[0] for sample, _ in scored])

    def guess(chosen: NDArray[np.bool_]) -> float:
        return round(float(np.unique(said[chosen], return_counts=True)[1].max() / chosen.sum()), 4)

    groups = {name: np.isin(types, group) for name, group in task.groups().items()}
    present = {name: types == name for group in task.groups().values() for name in group}
    return {
        "scenes": task.scenes,
        "all": of(np.ones(len(right), bool), np.zeros(len(right))),
        "groups": {name: of(chosen, types) for name, chosen in groups.items() if chosen.any()},
        "types": {
            name: {**of(chosen, types), "guess": guess(chosen)} for name, chosen in present.items() if chosen.any()
        },
    }


def interval(right: NDArray[np.float64], strata: NDArray, scenes: NDArray[np.int64]) -> dict[str, float]:
    """Mean of the strata's means, its 95 % interval and the number of questions.

    The questions of a scene are not independent. The variance is that of the sums over scenes of each question's
    influence (Liang and Zeger 1986, Biometrika 73:13), and the interval is Wilson's (1927, JASA 22:209) with the number
    of independent questions that would give this variance, at most the number there are.
    """
    influence = np.zeros(len(right))
    means = []
    for stratum in np.unique(strata):
        here = strata == stratum
        means.append(right[here].mean())
        influence[here] = (right[here] - means[-1]) / here.sum()
    share = float(np.mean(means))
    variance = float((np.bincount(scenes, influence / len(means)) ** 2).sum())
    count = len(right) if variance == 0 else min(share * (1 - share) / variance, len(right))
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = (round(min(max(bound, 0.0), 1.0), 4) for bound in (centre - half, centre + half))
    return {"accuracy": round(share, 4), "low": low, "high": high, "n": len(right)}
