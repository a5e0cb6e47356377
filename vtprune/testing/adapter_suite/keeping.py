"""Checks that keeping everything changes nothing, at each kind of site."""

from __future__ import annotations

from vtprune.testing.adapter_suite.frame import adapter_check, blaming
from vtprune.testing.adapter_suite.places import CAUSES, GENERATE, has_tower_site, has_vision_site
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.verify import plays
from vtprune.verify.compare import Seen, check_identical
from vtprune.verify.masks import acted
from vtprune.verify.plays import Play


def _keep_all(trial: Trial, kind: str) -> None:
    model, inputs, plain = trial.model, trial.inputs("batch"), trial.plain("batch")
    with blaming(CAUSES[kind]):
        both: tuple[Play, ...] = (plays.forward, GENERATE)
        for number, play in enumerate(both):
            with trial.prune(kind, budget=1.0) as run:
                found: Seen = play(model, inputs)
                report = run.report
            acted(report, everything=True)
            check_identical(found, plain[number], f"keeping everything at {trial.site(kind)}")


@adapter_check(has_tower_site)
def check_adapter_keeps_all_inside_the_tower(trial: Trial) -> None:
    """Keeping everything at vision.layers[i] changes no bit of logits and generated tokens."""
    _keep_all(trial, "tower")


@adapter_check(has_vision_site)
def check_adapter_keeps_all_before_the_projector(trial: Trial) -> None:
    """Keeping everything at vision.output changes no bit of logits and generated tokens."""
    _keep_all(trial, "vision")


@adapter_check()
def check_adapter_keeps_all_behind_the_projector(trial: Trial) -> None:
    """Keeping everything at projector.output changes no bit of logits and generated tokens."""
    _keep_all(trial, "projector")


@adapter_check()
def check_adapter_keeps_all_in_a_decoder_layer(trial: Trial) -> None:
    """Keeping everything at llm.layers[i] changes no bit of logits and generated tokens."""
    _keep_all(trial, "llm")


@adapter_check()
def check_adapter_keeps_all_in_the_cache(trial: Trial) -> None:
    """Keeping everything at llm.layers[i].kv changes no bit of logits and generated tokens."""
    _keep_all(trial, "kv")
