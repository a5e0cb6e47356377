"""Checks of scorers: the shape of the scores, for every kind of sample that the engine hands over."""

from __future__ import annotations

from torch import Tensor

from vtprune.core.component import Component, Scorer
from vtprune.core.signals import Need
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs import layouts
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.signals import KV_HEADS, LANGUAGE, LAYER, signals_for

GRID = Need("grid")


def expected_shape(scorer: Scorer, bucket: Bucket) -> tuple[tuple[int, ...], str]:
    """The shape that scores must have by the scorer's granularity, and its axes."""
    if scorer.granularity == "head":
        return (bucket.batch, KV_HEADS, bucket.vision), "[batch, kv_head, vision]"
    return (bucket.batch, bucket.vision), "[batch, vision]"


def fitting(scorer: Scorer, bucket: Bucket, cause: str, layer: int | None = LAYER) -> Tensor:
    """The scores of a bucket; fails with ``cause`` if they cannot be had, or are of the wrong shape."""
    try:
        scores = scorer.score(signals_for(scorer, bucket, layer=layer))
    except Exception as error:
        error.add_note(f"likely cause: {cause}")
        raise
    shape, axes = expected_shape(scorer, bucket)
    if not isinstance(scores, Tensor):
        fail(f"score returned a {type(scores).__name__}, expected a float tensor {axes}", "no `return`")
    if scores.dim() > len(shape):
        cause = f"an axis was not reduced; or granularity says {scorer.granularity!r} where the other one is meant"
    if tuple(scores.shape) != shape:
        fail(f"scores have shape {list(scores.shape)}, expected {axes} = {list(shape)}", cause)
    return scores


@check("scorer")
def check_granularity_is_known(scorer: Scorer) -> None:
    """The granularity is ``token`` or ``head``."""
    if scorer.granularity not in ("token", "head"):
        fail(
            f"granularity is {scorer.granularity!r}, expected 'token' or 'head'",
            "another word for it: scores [batch, vision] are of granularity token, [batch, kv_head, vision] of head",
        )


@check("scorer")
def check_scores_have_the_declared_shape(scorer: Scorer) -> None:
    """Scores are ``[batch, vision]``, or ``[batch, kv_head, vision]`` if the granularity is ``head``."""
    heads = "query heads were left where KV heads belong" if scorer.granularity == "head" else "an axis was not reduced"
    for batch in (1, 3):
        fitting(
            scorer,
            layouts.one_image(batch),
            f"{heads}, the batch axis was squeezed or the vision axis reduced; or granularity says "
            f"{scorer.granularity!r} where the other one is meant",
        )


@check("scorer")
def check_scores_are_floats(scorer: Scorer) -> None:
    """Scores are of a floating-point dtype."""
    scores = scorer.score(signals_for(scorer))
    if not scores.dtype.is_floating_point:
        fail(
            f"scores are {scores.dtype}, expected a float dtype",
            "ranks, counts or a mask were returned as they are; end with `.float()`",
        )


@check("scorer")
def check_scores_of_a_single_token(scorer: Scorer) -> None:
    """A sample of one vision token has one score, which is not NaN."""
    scores = fitting(scorer, layouts.one_token(), "`.squeeze()` without an axis removed the vision axis of length 1")
    if bool(scores.isnan().any()):
        fail(
            "the score of a sample's only vision token is NaN",
            "a spread over one token: `std()` divides by n - 1 = 0, and (x - min) / (max - min) is 0 / 0",
        )


@check("scorer")
def check_scores_of_several_images(scorer: Scorer) -> None:
    """Samples of several unequal images, and samples with other images than their batch mates, are scored."""
    fitting(
        scorer,
        layouts.several_images(),
        "only the first image of a sample, or the images of the first sample, were looked at; each sample has layouts "
        "of its own: signals.segments(sample)",
    )


@check("scorer")
def check_scores_of_crops(scorer: Scorer) -> None:
    """Crops that share an image, and rows that end in a separator token, are scored."""
    fitting(scorer, layouts.crops(), "segments were counted by `segment.image`, which crops share; use `segment.index`")


@check("scorer")
def check_scores_of_videos(scorer: Scorer) -> None:
    """Videos, whose grid has several frames, are scored."""
    fitting(scorer, layouts.videos(), "a grid (t, h, w) was read as h * w tokens; there are t frames of as many")


@check("scorer")
def check_scores_of_survivors(scorer: Scorer) -> None:
    """Where tokens have been dropped before, the survivors are scored."""
    fitting(
        scorer,
        layouts.survivors(),
        "the layout tells of the prompt as it came in; `signals.alive` says which of its vision tokens are left, and "
        "signals.vision how many",
    )


def _needs_grid(scorer: Scorer) -> str | None:
    return "it needs the grid" if GRID in scorer.needs() else None


@check("scorer", applies=_needs_grid)
def check_scores_without_a_grid(scorer: Scorer) -> None:
    """A scorer that does not need the grid scores images that have none."""
    fitting(
        scorer,
        layouts.no_grid(),
        "`segment.grid` was read, which is None for some families; declare Need('grid') and use signals.coordinates()",
    )


def _inside_the_model(component: Component) -> str | None:
    if kinds := sorted({need.kind for need in component.needs()} & LANGUAGE):
        return f"it needs {', '.join(kinds)} of the language model"
    if isinstance(component, Scorer) and component.granularity == "head":
        return "scores per head belong to .kv sites"
    return None


@check("scorer", applies=_inside_the_model)
def check_scores_before_the_language_model(scorer: Scorer) -> None:
    """A scorer that reads nothing of the language model works before it, where ``signals.layer`` is None."""
    fitting(
        scorer,
        layouts.one_image(),
        "`signals.layer` was taken for a number; it is None before the language model",
        layer=None,
    )
