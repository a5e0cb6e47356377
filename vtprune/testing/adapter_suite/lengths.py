"""Checks of what removal leaves: the same for every sample alone, shorter caches, the same positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtprune.testing.adapter_suite.encoding import noting
from vtprune.testing.adapter_suite.frame import adapter_check, blaming
from vtprune.testing.adapter_suite.places import CAUSES
from vtprune.testing.adapter_suite.subject import FIRST_SEED
from vtprune.testing.adapter_suite.trial import BATCH, Scattered, Trial
from vtprune.testing.checking import fail
from vtprune.verify import plays, prompts
from vtprune.verify.compare import TOLERANCE, distance


@adapter_check()
def check_adapter_samples_are_by_themselves(trial: Trial) -> None:
    """A sample in a padded batch keeps and says what it keeps and says alone."""
    scorer = "random" if "sample_seed" in trial.adapter.provides else Scattered()
    cause = (
        "`images`: `pixels` are not the image's own (random scores are seeded with them), or the images are in another "
        "order"
    )
    with blaming(cause), torch.no_grad(), trial.prune("projector", scorer=scorer, budget=0.4) as run:
        together, report = trial.model(**trial.inputs("batch")).logits[:, -1], run.report
        for sample, count in enumerate(BATCH):
            if not count:
                continue
            alone = trial.model(**trial.make_inputs((count,), seed=FIRST_SEED + sample, text=prompts.SHORT)).logits[
                0, -1
            ]
            if run.report.kept(0, 0) != report.kept(0, sample):
                fail(f"sample {sample} of the batch keeps other tokens than by itself", cause)
            if (by := distance(alone, together[sample])) > TOLERANCE:
                fail(
                    f"the next token's logits of sample {sample} differ by {by:.1e} from those of the sample alone",
                    cause,
                )


def _stored(output: Any, trial: Trial) -> dict[int, int]:
    """Slots that each decoder layer's cache holds."""
    layers = output.past_key_values.layers
    return {kind.index: layers[kind.index].keys.shape[-2] for kind in trial.kinds if kind.has_cache}


@adapter_check()
def check_adapter_caches_are_shorter(trial: Trial) -> None:
    """The cache of each layer holds exactly what is left of the prompt there, and reports the prompt's own length."""
    inputs = trial.inputs("one")
    with torch.no_grad():
        whole = _stored(trial.model(**inputs, use_cache=True), trial)
    length = inputs["input_ids"].shape[1]
    for kind in ("projector", "llm", "kv"):
        with torch.no_grad(), blaming(CAUSES[kind]), trial.prune(kind) as run:
            output = trial.model(**inputs, use_cache=True)
            report = run.report
        vision = report.layouts[0].vision
        first = {"projector": 0, "llm": trial.layer, "kv": trial.cached_layer}[kind]
        gone = vision - len(report.kept(0, 0))
        for layer, slots in _stored(output, trial).items():
            concerned = layer == first if kind == "kv" else layer >= first
            if whole[layer] < length:
                continue  # a sliding layer that is full
            if slots != (expected := whole[layer] - gone * concerned):
                fail(
                    f"{gone} of {vision} vision tokens left at {trial.site(kind)}, but the cache of layer {layer} "
                    "holds "
                    f"{slots} tokens; expected {expected}",
                    "`language_model`, or images() counts tokens that are none",
                )
        if (logical := output.past_key_values.get_seq_length()) != length:
            fail(f"the cache reports {logical} tokens after a prompt of {length}", "`language_model`")


def _rotary(trial: Trial, steps: int) -> list[Tensor]:
    """Cosines of the positions ``[..., token, dim]`` that a decoder layer was given, call by call."""

    def read(args: Any, kwargs: Any, output: Any) -> Any:
        found = kwargs.get("position_embeddings")
        return found[0] if isinstance(found, tuple) else found

    with noting(trial.parts.layers[trial.layer], read, before=True) as seen:
        plays.generate(trial.model, trial.inputs("one"), steps)
    return [tensor for tensor in seen if isinstance(tensor, Tensor)]


@adapter_check()
def check_adapter_positions_stay_in_step(trial: Trial) -> None:
    """What is kept has its original positions (1-D or M-RoPE), and decoding goes on from the prompt's own end."""
    cause = "`images` changes what positions are made of (grids among the arguments), or `language_model`"
    plain = _rotary(trial, 2)
    with blaming(cause), trial.prune("projector") as run:
        found = _rotary(trial, 2)
        report = run.report
    if not plain or len(plain) != len(found):
        fail(
            f"decoder layer {trial.layer} was called {len(found)} times with positions instead of {len(plain)}",
            "`language_model`",
        )
    keep = torch.ones(trial.inputs("one")["input_ids"].shape[1], dtype=torch.bool)
    positions = report.layouts[0].positions
    keep[positions] = False
    keep[positions[report.kept(0, 0)]] = True
    for step, (one, other) in enumerate(zip(plain, found, strict=True)):
        expected = one[..., keep, :] if step == 0 else one
        if expected.shape != other.shape or not torch.equal(expected, other):
            where = "the prompt's surviving tokens" if step == 0 else f"decoding step {step}"
            fail(f"{where} have other positions ({list(other.shape)} instead of {list(expected.shape)})", cause)
