"""Trials of the components that read signals: scorers and allocators."""

from __future__ import annotations

from collections.abc import Iterator

from vtprune.core.component import Scorer
from vtprune.core.signals import Need
from vtprune.testing.inputs.layouts import Bucket, one_image, one_token, several_images, survivors
from vtprune.testing.inputs.signals import Offer, signals_of, tensors_for
from vtprune.testing.inputs.trials import Tensors, Trial

ON_CPU = frozenset({"sample_seed"})
"""Signals that the engine leaves on the CPU."""


def offered(needs: frozenset[Need], bucket: Bucket, inputs: Tensors) -> Offer:
    """Signals made of the inputs of a trial: each need under its name, and ``alive``."""
    tensors = {need: inputs[str(need)] for need in needs}
    return signals_of(tensors, Bucket(bucket.layouts, inputs["alive"]))


def buckets() -> dict[str, Bucket]:
    """Samples of one image, of several, of what an earlier stage has left, and of a single token."""
    return {
        "one image": one_image(),
        "several images": several_images(),
        "survivors of an earlier stage": survivors(),
        "one token": one_token(),
    }


def trials_of_scorer(scorer: Scorer) -> Iterator[Trial]:
    """The scorer on each of `buckets`."""
    for label, bucket in buckets().items():

        def call(inputs: Tensors, bucket: Bucket = bucket) -> Tensors:
            return {"scores": scorer.score(offered(scorer.needs(), bucket, inputs))}

        inputs = {str(need): tensor for need, tensor in tensors_for(scorer, bucket).items()}
        yield Trial(label, {**inputs, "alive": bucket.alive}, call, ON_CPU)
