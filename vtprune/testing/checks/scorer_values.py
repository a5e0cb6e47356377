"""Checks of scorers: the scores themselves, on ordinary and on extreme signals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs import layouts
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.signals import MODEL_DTYPE, TOKEN_AXIS, Values, signals_for, signals_of, tensors_for

TOLERANCE = 1e-4
"""Of differences between two orders of summation, relative to the largest score."""


def far(one: Tensor, other: Tensor, tolerance: float = TOLERANCE) -> float:
    """The largest difference of two tensors of scores, relative to the largest score; 0 if within tolerance."""
    if one.shape != other.shape:
        return math.inf
    one, other = one.double(), other.double()
    unequal = ~((one == other) | (one.isnan() & other.isnan()))
    if not bool(unequal.any()):
        return 0.0
    scale = max([1e-30, *(float(x.abs().max()) for t in (one, other) if (x := t[t.isfinite()]).numel())])
    worst = float((one - other)[unequal].abs().nan_to_num(nan=torch.inf).max()) / scale
    return worst if worst > tolerance else 0.0


def _no_nan(scorer: Scorer, values: Values, words: str, cause: str) -> None:
    for bucket in (layouts.one_image(), layouts.survivors()):
        scores = scorer.score(signals_for(scorer, bucket, values=values))
        if bool(scores.isnan().any()):
            fail(f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN {words}", cause)


@check("scorer")
def check_ordinary_signals_give_no_nan(scorer: Scorer) -> None:
    """No score is NaN on ordinary signals."""
    cause = "a logarithm or a root of negative numbers, or 0 / 0"
    _no_nan(scorer, "normal", "on ordinary, Gaussian signals", cause)


@check("scorer")
def check_constant_signals_give_no_nan(scorer: Scorer) -> None:
    """No score is NaN where all tokens are alike, as in a plain image."""
    words = "where all tokens are alike, as in a plain image"
    _no_nan(scorer, "constant", words, "a division by the range or spread of the scores, which is 0 here")


@check("scorer")
def check_zero_signals_give_no_nan(scorer: Scorer) -> None:
    """No score is NaN where signals are zero: vectors of length 0, no attention to any vision token."""
    _no_nan(
        scorer,
        "zeros",
        "where signals are zero",
        "a division by a norm or by a sum of attention, or the logarithm of 0; clamp the denominator, or use "
        "torch.nn.functional.normalize",
    )


@check("scorer")
def check_huge_signals_give_no_nan(scorer: Scorer) -> None:
    """No score is NaN where activations are as large as float16 holds."""
    words = "where activations reach 60000, as a few do in real models"
    _no_nan(scorer, "huge", words, "`exp` without subtracting the maximum first: infinity / infinity; use softmax")


@check("scorer")
def check_tiny_signals_give_no_nan(scorer: Scorer) -> None:
    """No score is NaN where signals are denormal numbers."""
    words = "where signals are about 1e-40"
    _no_nan(scorer, "tiny", words, "a product or a square underflows to 0 and is then divided by")


@check("scorer")
def check_one_hot_signals_give_no_nan(scorer: Scorer) -> None:
    """No score is NaN where all attention falls on one token and vectors have one number that is not 0."""
    _no_nan(
        scorer,
        "one_hot",
        "where all attention falls on one token",
        "0 * log(0) of an entropy, which is NaN; use torch.special.xlogy or torch.special.entr",
    )


@check("scorer")
def check_half_precision_gives_no_nan(scorer: Scorer) -> None:
    """No score is NaN where the model runs in float16 or bfloat16, with activations up to 60000."""
    for dtype in (torch.float16, torch.bfloat16):
        scores = scorer.score(signals_for(scorer, dtype=dtype, values="huge"))
        if bool(scores.isnan().any()):
            fail(
                f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN in {dtype} where activations reach "
                "60000",
                "a square or a sum overflowed in half precision; begin with `.float()`",
            )


def _no_model_dtype(scorer: Scorer) -> str | None:
    if {need.kind for need in scorer.needs()} & MODEL_DTYPE:
        return None
    return "it reads no signal that comes in the model's dtype"


@check("scorer", applies=_no_model_dtype)
def check_half_precision_is_computed_in_float32(scorer: Scorer) -> None:
    """Signals in float16 or bfloat16 give the scores of the same numbers in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        bucket = layouts.one_image()
        half = tensors_for(scorer, bucket, dtype=dtype)
        full = {need: tensor.float() if tensor.dtype == dtype else tensor for need, tensor in half.items()}
        one, other = (scorer.score(signals_of(tensors, bucket)) for tensors in (half, full))
        if worst := far(one, other):
            fail(
                f"scores of {dtype} signals are off by {worst:.1g} of the largest score from those of the same "
                f"numbers in float32, so that near tokens change places",
                "the scores were computed in half precision; begin with `.float()`",
            )


@check("scorer")
def check_attached_signals_change_nothing(scorer: Scorer) -> None:
    """Scores do not depend on whether gradients are recorded."""
    bucket = layouts.one_image()
    tensors = tensors_for(scorer, bucket)
    attached = {n: t.clone().requires_grad_() if t.is_floating_point() else t for n, t in tensors.items()}
    with torch.enable_grad():
        one = scorer.score(signals_of(attached, bucket)).detach()
    with torch.no_grad():
        other = scorer.score(signals_of(tensors, bucket))
    if worst := far(one, other):
        fail(
            f"scores differ by {worst:.1g} of the largest score between torch.enable_grad and torch.no_grad",
            "a decision by torch.is_grad_enabled()",
        )


def _not_equivariant(scorer: Scorer) -> str | None:
    return None if scorer.permutation_equivariant else "it declares permutation_equivariant False"


@check("scorer", applies=_not_equivariant)
def check_permuted_tokens_permute_scores(scorer: Scorer) -> None:
    """If an image's vision tokens change places, with all that belongs to them, so do their scores."""
    for made in (layouts.one_image(), layouts.several_images(), layouts.survivors()):
        for bucket in (made.take([sample]) for sample in range(made.batch)):
            order = _within_segments(bucket)
            tensors = tensors_for(scorer, bucket)
            permuted = {
                need: tensor.index_select(axis, order) if (axis := TOKEN_AXIS.get(need.kind)) else tensor
                for need, tensor in tensors.items()
            }
            scores = scorer.score(signals_of(tensors, bucket))
            if scores.shape[-1] != bucket.vision:
                continue  # the checks of shapes say so
            expected = scores[..., order]
            if worst := far(scorer.score(signals_of(permuted, bucket)), expected):
                fail(
                    f"scores of permuted tokens are not the permuted scores: off by {worst:.1g} of the largest score, "
                    f"where {list(bucket.sizes)} of the images' {list(bucket.original)} tokens survive",
                    "a token's index, position or neighbours in the sequence take part; say so by the property "
                    "`permutation_equivariant`, which then returns False. Or survivors were indexed by `segment.start` "
                    "and `.stop`, which count tokens of the prompt; `signals.alive` says which those are",
                )


def _within_segments(bucket: Bucket) -> Tensor:
    """int64 ``[vision]``: the survivors of a sample in another order, each within its image."""
    generator = torch.Generator().manual_seed(1)
    starts = torch.tensor(bucket.sizes).cumsum(0) - torch.tensor(bucket.sizes)
    parts = zip(starts.tolist(), bucket.sizes, strict=True)
    return torch.cat([start + torch.randperm(size, generator=generator) for start, size in parts])


def mixed() -> Bucket:
    """Samples with unequal images, which have lost other tokens each."""
    one, other = layouts.survivors(), layouts.several_images()
    return Bucket((*one.layouts, *other.layouts), torch.cat([one.alive, other.alive[:, 3 : 3 + one.vision]]))


@check("scorer")
def check_samples_do_not_influence_each_other(scorer: Scorer) -> None:
    """A sample's scores are those that it has alone, whatever its batch mates are."""
    bucket = mixed()
    tensors = {
        need: _unequal(tensor) if need.kind not in ("grid", "sample_seed") else tensor
        for need, tensor in tensors_for(scorer, bucket).items()
    }
    together = scorer.score(signals_of(tensors, bucket))
    for sample in range(bucket.batch):
        alone = {need: tensor[sample : sample + 1] for need, tensor in tensors.items()}
        scores = scorer.score(signals_of(alone, bucket.take([sample])))
        if worst := far(scores[0], together[sample]):
            fail(
                f"sample {sample} of {bucket.batch} scores otherwise alone: off by {worst:.1g} of its largest score",
                "a minimum, maximum, mean or norm over the batch axis too (`x.max()` without `dim=-1`), or the first "
                "sample's signals or layout used for all (`x[0]`)",
            )


@check("scorer")
def check_order_of_samples_does_not_matter(scorer: Scorer) -> None:
    """If samples change places in their batch, so do their scores."""
    bucket = mixed()
    order = list(range(bucket.batch))[::-1]
    tensors = tensors_for(scorer, bucket)
    turned = scorer.score(signals_of({need: tensor[order] for need, tensor in tensors.items()}, bucket.take(order)))
    if worst := far(turned, scorer.score(signals_of(tensors, bucket))[order]):
        fail(
            f"scores of samples in another order are off by {worst:.1g} of the largest score",
            "a sample's number in the batch takes part, or random numbers are drawn for the batch as a whole; draw for "
            "each sample from signals.sample_seeds()",
        )


def _unequal(tensor: Tensor) -> Tensor:
    """The samples scaled by 1, 1/2, 1/3, ...: a number over the batch is then far from any sample's own."""
    scale = 1 / torch.arange(1, len(tensor) + 1, dtype=tensor.dtype)
    return tensor * scale.view(-1, *[1] * (tensor.dim() - 1))
