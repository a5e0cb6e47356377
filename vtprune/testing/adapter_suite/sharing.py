"""The check of `unique`: equal images are encoded once."""

from __future__ import annotations

import torch

from vtprune.testing.adapter_suite.encoding import entering, noting
from vtprune.testing.adapter_suite.frame import adapter_check, blaming, declares
from vtprune.testing.adapter_suite.places import HALF
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import fail
from vtprune.verify.compare import TOLERANCE, distance


def _no_sharing(trial: Trial) -> str | None:
    if (reason := declares("unique")(trial)) is not None:
        return reason
    assert trial.adapter.unique is not None
    each = trial.encoded("one")[0]
    if trial.adapter.unique(trial.model, each.call.modality, each.asked.arguments) is None:
        return "unique says that it cannot tell for such a call"
    return None


@adapter_check(_no_sharing)
def check_adapter_equal_images_are_encoded_once(trial: Trial) -> None:
    """unique finds an image that a batch holds twice, tells it from one that differs in a pixel, and sharing it changes
    no answer."""
    one = trial.inputs("one")
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in one.items()}
    found = []
    for share in (False, True):
        stage = {"site": "projector.output", **HALF}
        with torch.no_grad(), blaming("`unique`"), trial.shared(stage, share) as run:
            with noting(trial.parts.vision_tower, entering, before=True) as seen:
                logits = trial.model(**twice).logits
            found.append((logits, [run.report.kept(0, sample) for sample in (0, 1)], sum(t.numel() for t in seen)))
    if found[1][2] * 2 != found[0][2]:
        fail(
            f"{found[1][2]} numbers entered the tower of two equal images, {found[0][2]} without sharing",
            "`unique` finds no twin",
        )
    if found[0][1] != found[1][1] or (by := distance(found[0][0], found[1][0])) > TOLERANCE:
        by = distance(found[0][0], found[1][0])
        fail(
            f"sharing equal images changed the logits by {by:.1e}", "`unique`: the index does not bring the images back"
        )
    floats = [name for name, tensor in twice.items() if tensor.is_floating_point()]
    other = {**twice, floats[0]: twice[floats[0]].clone()}
    other[floats[0]].view(-1)[-1] += 1.0
    tower, stage = trial.parts.vision_tower, {"site": "projector.output", **HALF}
    with torch.no_grad(), blaming("`unique`"), trial.shared(stage, True), noting(tower, entering, before=True) as seen:
        trial.model(**other)
    if sum(t.numel() for t in seen) != found[0][2]:
        fail("images that differ in one pixel were taken for one", "`unique` does not compare all pixels")
