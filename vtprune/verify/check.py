"""How one cell is checked: keep everything, remove about half, and hold both against the unhooked model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import vtprune
from vtprune.core.report import Report
from vtprune.testing.models.tiny import Tiny, forget_dialogue
from vtprune.verify import dialogue
from vtprune.verify.compare import (
    EFFECT,
    TOLERANCE,
    Disagreement,
    Seen,
    check_agree,
    check_identical,
    distance,
    effect,
    tolerance_of,
)
from vtprune.verify.masks import acted, reference, survivors
from vtprune.verify.modes import parts
from vtprune.verify.outcome import REFUSALS, Outcome, Upstream, let_refusals_through, sentence
from vtprune.verify.plays import Play
from vtprune.verify.prompts import NotApplicable
from vtprune.verify.settings import Setting
from vtprune.verify.subjects import Subject


def check(tiny: Tiny, mode: str, subject: Subject) -> Outcome:
    """Check one cell; never raises, except for KeyboardInterrupt and the like."""
    try:
        if mode == "dialogue":
            return _outcome(lambda: dialogue.check(tiny, subject))
        prompt, setup = parts(mode)
        inputs = prompt(tiny)
        with setup(tiny, inputs) as setting:
            known = _known(tiny.model, mode) if setting.model is tiny.model else {}
            return _outcome(lambda: check_setting(setting, subject, known))
    except NotApplicable as error:
        return Outcome("absent", str(error))
    except Exception as error:
        return Outcome("fail", f"while setting up: {sentence(error, named=True)}")
    finally:
        forget_dialogue(tiny.model)


_latest: tuple[Any, str, dict[int, Seen]] = (None, "", {})


def _known(model: Any, mode: str) -> dict[int, Seen]:
    """What the unhooked model gave in this mode, as far as it was run for another site just before."""
    global _latest
    if _latest[0] is not model or _latest[1] != mode:
        _latest = (model, mode, {})
    return _latest[2]


def _outcome(run: Callable[[], None]) -> Outcome:
    try:
        run()
    except REFUSALS as error:
        return Outcome("refused", sentence(error, named=False))
    except Upstream as error:
        return Outcome("upstream", str(error))
    except Disagreement as error:
        return Outcome("fail", str(error))
    except NotApplicable as error:
        return Outcome("absent", str(error))
    except Exception as error:
        return Outcome("fail", sentence(error, named=True))
    return Outcome("pass")


def check_setting(setting: Setting, subject: Subject, known: dict[int, Seen]) -> None:
    """Check every way of calling; ``known`` has what the unhooked model gave, by number, and takes what it gives.

    Raises Disagreement, Upstream, NotApplicable, or one of the `REFUSALS`.
    """
    shown = []
    for number, (play, expected) in enumerate(setting.pairs):
        if number not in known:
            known[number] = unpruned(setting, play, expected, subject)
        shown.append(_check_play(setting, play, expected, subject, known[number]))
    if False in shown and True not in shown:
        raise NotApplicable("what is removed here does not show in the output: a sliding window hides it anyway")


def _check_play(setting: Setting, play: Play, expected: Play, subject: Subject, plain: Seen) -> bool | None:
    """Check one way of calling. Returns whether the removal showed in what came out; None where it must not: eviction
    shows from the first decoding step on."""
    model, inputs, recipe = setting.model, setting.inputs, subject.recipe(setting.model)
    if subject.keep is not None:
        with vtprune.prune(model, {"stages": subject.stages_that_keep_all(model)}) as run:
            same = play(model, inputs)
        acted(first(run), everything=True)
        check_identical(same, plain, "keeping everything")
    with vtprune.prune(model, recipe) as run:
        pruned = play(model, inputs)
    report = first(run)
    acted(report, everything=False)
    if any(kept(other) != kept(report) for other in run.reports[1:]):
        raise Disagreement("later steps kept other tokens of the same prompt")
    with masked_reference(model, report, inputs["input_ids"].shape[1]):
        masked = expected(model, inputs)
    rows = survivors(report, inputs)
    if pruned.logits is None and all(stage.site.kind == "kv" for stage in report.recipe.stages):
        check_identical(pruned, plain, "the prompt, of which a .kv stage must change nothing")
        return None
    tolerance = max(setting.tolerance, tolerance_of(model))
    check_agree(pruned, masked, "against the masked reference", rows, tolerance)
    return effect(masked, plain, rows) > max(EFFECT, tolerance)


def masked_reference(model: Any, report: Report, tokens: int) -> AbstractContextManager[None]:
    """The reference; raises NotApplicable where none exists: in towers that it does not know."""
    try:
        return reference(model, report, tokens)
    except ValueError as error:
        raise NotApplicable(f"no reference to compare with: {error}") from error


def unpruned(setting: Setting, play: Play, expected: Play, subject: Subject) -> Seen:
    """What transformers alone gives in this mode; raises Upstream if that fails, or contradicts itself.

    What vtprune refuses is refused, whether it would work upstream or not: then its error is raised.
    """
    model, inputs = setting.model, setting.inputs
    try:
        plain = play(model, inputs)
        _check_copies(plain, len(inputs["input_ids"]))
        if play is not expected:
            ordinary = expected(model, inputs)
            what = "transformers without vtprune, against its own ordinary way"
            check_agree(plain, ordinary, what, tolerance=tolerance_of(model))
    except Exception as error:
        with vtprune.prune(model, subject.recipe(model)):
            let_refusals_through(lambda: play(model, inputs))
        raise Upstream(sentence(error, named=not isinstance(error, Disagreement))) from error
    return plain


def _check_copies(seen: Seen, samples: int) -> None:
    """The copies of a sample (beams, several sequences) begin alike; transformers up to 5.17 gives those of models that
    cut images into crops one another's crops."""
    if seen.logits is None or seen.logits.shape[1] == samples:
        return
    first = seen.logits[0].unflatten(0, (samples, -1))
    if (by := distance(first, first[:, :1].expand_as(first))) > TOLERANCE:
        raise Disagreement(f"transformers without vtprune: the copies of a sample differ at the first step by {by:.1e}")


def first(run: vtprune.Run) -> Report:
    """The report of the first prompt; raises Disagreement if nothing was noticed of any."""
    if not run.reports:
        raise Disagreement("the model ran inside the with-block without vtprune noticing: nothing was removed")
    return run.reports[0]


def kept(report: Report) -> list[tuple[int, int, int, list[list[int]]]]:
    """Everything that was kept: stage, layer, sample, and indices for each KV head."""
    return [(e.stage, e.layer, e.sample, [indices.tolist() for indices in e.kept]) for e in report.events]
