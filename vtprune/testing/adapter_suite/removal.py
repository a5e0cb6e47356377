"""Checks that removing tokens is masking them, at each kind of site."""

from __future__ import annotations

import math

import torch

from vtprune.core.report import Report
from vtprune.testing.adapter_suite.encoding import entering, noting
from vtprune.testing.adapter_suite.frame import adapter_check, all_of, blaming
from vtprune.testing.adapter_suite.places import CAUSES, GENERATE, HALF, has_tower_site, has_vision_site
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import fail
from vtprune.verify import plays
from vtprune.verify.check import check_setting
from vtprune.verify.settings import Setting
from vtprune.verify.subjects import Subject


def _has_reference(trial: Trial) -> str | None:
    if any(kind.attention is None for kind in trial.kinds):
        return "some decoder layers carry a state instead of attending, from which no mask can hide a token"
    return None


def _removal(trial: Trial, kind: str, name: str = "batch") -> None:
    pairs = ((plays.forward, plays.forward), (GENERATE, GENERATE))
    setting = Setting(trial.model, trial.inputs(name), pairs)
    subject = Subject(trial.site(kind), kind, drop=HALF)
    with blaming(f"{CAUSES[kind]}; or the weights are so small that nothing shows: make the model with models.build"):
        check_setting(setting, subject, dict(trial.plain(name)))


@adapter_check(all_of(has_vision_site, _has_reference))
def check_adapter_removal_before_the_projector_is_masking(trial: Trial) -> None:
    """Removing half at vision.output equals hiding it by a mask: the prompt's logits and three decoding steps."""
    _removal(trial, "vision")


@adapter_check(_has_reference)
def check_adapter_removal_behind_the_projector_is_masking(trial: Trial) -> None:
    """Removing half at projector.output equals hiding it by a mask: the prompt's logits and three decoding steps."""
    _removal(trial, "projector")


@adapter_check(_has_reference)
def check_adapter_removal_in_a_decoder_layer_is_masking(trial: Trial) -> None:
    """Removing half at llm.layers[i] equals hiding it by a mask: the prompt's logits and three decoding steps."""
    _removal(trial, "llm")


@adapter_check(_has_reference)
def check_adapter_eviction_is_masking(trial: Trial) -> None:
    """Evicting half at llm.layers[i].kv equals hiding it by a mask while decoding, and changes nothing of the
    prompt."""
    _removal(trial, "kv")


@adapter_check(_has_reference)
def check_adapter_removal_from_an_image_at_the_end_is_masking(trial: Trial) -> None:
    """The same for a prompt that ends in an image, with two images in a sample."""
    _removal(trial, "projector", "last")
    _removal(trial, "projector", "two")


@adapter_check(has_tower_site)
def check_adapter_patches_leave_the_tower(trial: Trial) -> None:
    """Dropping half at vision.layers[i] leaves half of each image's tokens, and so many patches fewer to later
    layers."""
    inputs, kind = trial.inputs("batch"), "tower"
    with torch.no_grad(), blaming(CAUSES[kind]), trial.prune(kind) as run:
        trial.model(**inputs)
        report = run.report
    expected = [image.tokens - math.floor(image.tokens / 2) for each in trial.encoded("batch") for image in each.images]
    found = []
    for sample, layout in enumerate(report.layouts):
        kept = torch.tensor(report.kept(0, sample), dtype=torch.int64)
        found += [int(((kept >= s.start) & (kept < s.stop)).sum()) for s in layout.segments]
    if any(abs(one - other) > 1 for one, other in zip(found, expected, strict=True)):
        fail(f"of images with twice {expected} tokens, {found} were left after dropping half", CAUSES[kind])
    _check_patches(trial, report)


def _check_patches(trial: Trial, report: Report) -> None:
    """The attention of the last vision layer that is used sees as many rows fewer as the dropped tokens had."""
    attention = trial.parts.vision_attention[trial.tower_depth - 1 : trial.tower_depth]
    assert trial.adapter.tower_rows is not None
    if not attention or len(trial.encoded("batch")) != 1:
        return
    each = trial.encoded("batch")[0]
    with noting(attention[0], entering, before=True) as seen, torch.no_grad():
        trial.model(**trial.inputs("batch"))
        whole = sum(tensor.shape[:-1].numel() for tensor in seen)
        seen.clear()
        with trial.prune("tower"):
            trial.model(**trial.inputs("batch"))
        left = sum(tensor.shape[:-1].numel() for tensor in seen)
    rows = iter(trial.adapter.tower_rows(trial.model, each.call, each.images))
    gone = 0
    for sample, layout in enumerate(report.layouts):
        kept = set(report.kept(0, sample))
        for segment in layout.segments:
            own = next(rows)
            dropped = [token for token in range(len(segment)) if segment.start + token not in kept]
            gone += len({row for row in own[dropped].flatten().tolist() if row >= 0})
    if whole - left != gone:
        fail(
            f"the dropped tokens are made of {gone} patches, but the last vision layer attends to {whole - left} fewer",
            CAUSES["tower"],
        )
