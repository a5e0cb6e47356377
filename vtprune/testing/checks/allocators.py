"""Checks of allocators: the counts, and how they follow the budget."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from vtprune.core.budget import UNITS
from vtprune.core.component import Allocation, Allocator
from vtprune.core.signals import Need
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs import layouts
from vtprune.testing.inputs.layouts import Bucket
from vtprune.testing.inputs.requests import PLACES, Asked, Scope, accepted, budgets, chain, middling
from vtprune.testing.inputs.signals import Values, signals_of, tensors_for


def allocate(allocator: Allocator, asked: Asked, bucket: Bucket, values: Values = "normal") -> Allocation:
    """The allocation at the place's first layer."""
    layer = asked.place.layers[0]
    return allocator.allocate(asked.request(bucket, layer), asked.signals(allocator, bucket, layer, values))


def one_each(allocator: Allocator, bucket: Bucket, scope: Scope = "joint") -> Iterator[Asked]:
    """A middling budget for every place that the allocator serves."""
    for taken in accepted(allocator, bucket, scope).values():
        yield middling(taken, bucket)


def ascending(allocator: Allocator, bucket: Bucket, scope: Scope = "joint") -> Iterator[list[Asked]]:
    """For every place of a single layer and every unit that the allocator takes there: its budgets, ascending."""
    for place, taken in accepted(allocator, bucket, scope).items():
        for unit in UNITS if len(place.layers) == 1 else ():
            if of_unit := [one for one in taken if one.budget is not None and one.budget.unit == unit]:
                yield of_unit


def total(counts: Tensor) -> Fraction:
    """Tokens that a sample keeps, of ``[segment]`` or ``[kv_head, segment]`` counts: averaged over the heads."""
    return Fraction(int(counts.sum()), 1 if counts.dim() == 1 else counts.shape[0])


def _rising(asked: Asked) -> str:
    """Why counts that grow with depth fail where tokens are dropped."""
    if asked.place.kv_heads or len(asked.place.layers) < 2:
        return ""
    return (
        ". Or counts that rise with depth: what one layer drops no later one has. Rising counts serve .kv sites alone; "
        "where `allocate` cannot serve a request (kv_heads is None), it raises ComponentError"
    )


def _no_budget(allocator: Allocator) -> str | None:
    offered = (one for unit in UNITS for one in budgets(unit, PLACES[0], 12))
    if any(allocator.budget_problem(budget) is None for budget in offered):
        return None
    return "budget_problem refuses every budget"


def _not_static(allocator: Allocator) -> str | None:
    if allocator.count_is_static or allocator.needs() <= {Need("grid")}:
        return None  # counts of one that needs no signal follow from shapes, whatever it says
    return "count_is_static is False: the signals take part"


def _not_static_or_no_budget(allocator: Allocator) -> str | None:
    return _not_static(allocator) or _no_budget(allocator)


@check("allocator")
def check_budget_problem_is_a_sentence(allocator: Allocator) -> None:
    """``budget_problem`` returns None or the reason in words, for no budget and for every unit."""
    for budget in (None, *(one for unit in UNITS for one in budgets(unit, PLACES[0], 12))):
        problem = allocator.budget_problem(budget)
        if problem is not None and not (isinstance(problem, str) and problem.strip()):
            fail(
                f"budget_problem({budget}) returned {problem!r}, expected None (no problem) or the reason in words",
                "True or False was returned; return None where the budget is fine",
            )


@check("allocator")
def check_allocates_somewhere(allocator: Allocator) -> None:
    """There is a kind of stage that the allocator serves, with a budget or without."""
    if not accepted(allocator):
        fail(
            f"it served none of the stages {', '.join(place.name for place in PLACES)} of a model of 4 layers: "
            "budget_problem refused every budget, or allocate raised ComponentError",
            "parameters that name other layers or heads; let examples() return an instance that fits one of these",
        )


@check("allocator")
def check_counts_have_the_declared_shape(allocator: Allocator) -> None:
    """Counts are int64 on the CPU, ``[batch, segment]``, or ``[batch, kv_head, segment]`` at ``.kv`` sites."""
    scopes: dict[Scope, Bucket] = {"joint": layouts.several_images(), "image": layouts.like_survivors()}
    for scope, bucket in scopes.items():
        for asked in one_each(allocator, bucket, scope):
            counts = allocate(allocator, asked, bucket).counts
            segments, heads = len(asked.request(bucket, asked.place.layers[0]).sizes), asked.place.kv_heads
            shapes = [[bucket.batch, segments], *([[bucket.batch, heads, segments]] if heads else [])]
            if not isinstance(counts, Tensor):
                fail(f"counts are a {type(counts).__name__}, expected an int64 tensor [batch, segment]")
            if counts.dtype != torch.int64 or counts.device.type != "cpu" or list(counts.shape) not in shapes:
                fail(
                    f"counts are {counts.dtype} {list(counts.shape)} on {counts.device} ({asked}), expected int64 "
                    f"{' or '.join(map(str, shapes))} on the CPU for a batch of {bucket.batch}, {segments} segments"
                    f"{f' and {heads} KV heads' if heads else ''}",
                    "a float count, one row for the whole batch, or one count where each segment needs its own",
                )


@check("allocator")
def check_counts_fit_the_segments(allocator: Allocator) -> None:
    """No count is negative, and none exceeds what survives in its segment."""
    cases: list[tuple[Scope, Bucket]] = [
        ("joint", layouts.one_token()),
        ("joint", layouts.several_images()),
        ("image", layouts.like_survivors()),
    ]
    for scope, bucket in cases:
        for taken in accepted(allocator, bucket, scope).values():
            few = dict.fromkeys((taken[0], middling(taken, bucket), taken[-1]))
            for asked, values in ((asked, values) for asked in few for values in ("normal", "zeros", "one_hot")):
                counts = allocate(allocator, asked, bucket, values).counts  # type: ignore[arg-type]
                sizes = asked.request(bucket, asked.place.layers[0]).sizes
                if bool((counts < 0).any() | (counts > torch.tensor(sizes)).any()):
                    fail(
                        f"counts {counts[0].tolist()} do not lie between 0 and what survives in the segments, "
                        f"{list(sizes)} ({asked})",
                        "a share of the tokens in the prompt (request.original), or a minimum for each image, that was "
                        "not limited to request.sizes",
                    )


@check("allocator", applies=_not_static_or_no_budget)
def check_counts_meet_the_budget(allocator: Allocator) -> None:
    """Counts that follow from shapes alone add up to the budget, as nearly as rounding allows, and never exceed it.

    Over the layers of a stage, each weighted by the decoder layers that it governs, less is missing than one more token
    at the layer that governs most would use. At a single layer that is the budget rounded down, exactly.
    """
    sample = layouts.several_images().take([0])
    scopes: tuple[Scope, ...] = ("joint", "image")
    for scope in scopes:
        for place, taken in accepted(allocator, sample, scope).items():
            for asked in taken:
                if (target := asked.target(sample)) is None:
                    continue
                totals = [total(counts) for counts in chain(allocator, asked, sample)]
                wanted = target * sum(place.spans)
                short = wanted - sum(span * count for span, count in zip(place.spans, totals, strict=True))
                if not 0 <= short < max(place.spans):
                    fail(
                        f"layers {list(place.layers)} keep {[float(one) for one in totals]} tokens, a mean of "
                        f"{float((wanted - short) / sum(place.spans)):.4g} over the decoder layers governed, but the "
                        f"budget is {float(target):.4g} ({asked})",
                        "rounding each count by itself, or leaving request.spans out: a layer's count holds until the "
                        f"stage's next layer. vtprune.plugin.apportion splits a total exactly{_rising(asked)}",
                    )


@check("allocator", applies=_not_static_or_no_budget)
def check_survivors_share_the_budget(allocator: Allocator) -> None:
    """Where tokens have been dropped before, counts add up to the budget, or to all survivors if they are fewer."""
    bucket = layouts.like_survivors()
    scopes: tuple[Scope, ...] = ("joint", "image")
    for scope in scopes:
        for asked in (one for group in ascending(allocator, bucket, scope) for one in group):
            target = asked.target(bucket)
            assert target is not None
            kept = total(allocate(allocator, asked, bucket).counts[0])
            enough = kept == bucket.vision if target >= bucket.vision else 0 <= target - kept < 1
            if not enough:  # per KV head, fractions of a token are possible
                fail(
                    f"{float(kept):g} tokens are kept where the budget is {float(target):g} and {bucket.vision} of "
                    f"{sum(bucket.original)} tokens survive, expected {min(int(target), bucket.vision)} ({asked})",
                    "what a segment cannot use, because fewer tokens survive in it, was not given to the others; or "
                    "the budget was taken as a share of the survivors",
                )


@check("allocator", applies=_not_static_or_no_budget)
def check_whole_budget_keeps_everything(allocator: Allocator) -> None:
    """A budget of all tokens keeps all of them, at every layer and in every segment."""
    sample = layouts.several_images().take([0])
    scopes: tuple[Scope, ...] = ("joint", "image")
    for scope in scopes:
        for place, taken in accepted(allocator, sample, scope).items():
            for asked in (one for one in taken if one.target(sample) == sample.vision):
                for layer, counts in zip(place.layers, chain(allocator, asked, sample), strict=True):
                    if total(counts) != sample.vision:
                        fail(
                            f"layer {layer} keeps {float(total(counts)):g} of {sample.vision} tokens ({asked})",
                            "binary rounding, e.g. `int(0.29 * 100)` is 28; count in integers or fractions"
                            f"{_rising(asked)}",
                        )


@check("allocator", applies=_no_budget)
def check_budget_above_zero_keeps_something(allocator: Allocator) -> None:
    """A budget of at least one token never keeps none."""
    bucket = layouts.several_images()
    for group in ascending(allocator, bucket):
        for asked in group:
            if (target := asked.target(bucket)) is None or target < 1:
                continue
            values: Values
            for values in ("normal", "zeros"):
                counts = allocate(allocator, asked, bucket, values).counts
                if bool((counts.flatten(1).sum(1) == 0).any()):
                    fail(
                        f"nothing of {bucket.vision} tokens is kept, although the budget is {float(target):g} tokens "
                        f"({asked})",
                        "a small share was rounded down to 0; keep at least one: max(1, ...)",
                    )


@check("allocator", applies=_no_budget)
def check_more_budget_keeps_no_less(allocator: Allocator) -> None:
    """On the same signals, a larger budget does not keep fewer tokens."""
    bucket = layouts.several_images()
    for group in ascending(allocator, bucket):
        kept = [(asked, allocate(allocator, asked, bucket).counts.flatten(1).sum(1)) for asked in group]
        for (less, few), (more, many) in pairwise(kept):
            if bool((many < few).any()):
                fail(
                    f"{less.budget} keeps {few.tolist()} tokens of the samples, {more.budget} keeps {many.tolist()} "
                    f"({more.place.name})",
                    "the share was inverted (what is dropped in place of what is kept), or a large number was taken "
                    "for a small share",
                )


@check("allocator", applies=_not_static)
def check_static_counts_ignore_the_signals(allocator: Allocator) -> None:
    """If ``count_is_static``, the counts are the same for all signals, and none is needed but the grid."""
    if needs := sorted(map(str, allocator.needs() - {Need("grid")})):
        fail(
            f"count_is_static is True, but needs() declares {', '.join(needs)}",
            "the property belongs to counts that are known before the model runs; return False",
        )
    bucket = layouts.one_image()
    for asked in one_each(allocator, bucket):
        values: tuple[Values, ...] = ("normal", "zeros", "one_hot", "huge")
        found = [allocate(allocator, asked, bucket, one).counts for one in values]
        for name, counts in zip(values, found, strict=True):
            if not torch.equal(counts, found[0]):
                fail(
                    f"counts are {found[0][0].tolist()} for ordinary signals and {counts[0].tolist()} for others "
                    f"({name}), but count_is_static is True ({asked})",
                    "the counts depend on what the model computes; let count_is_static return False",
                )


@check("allocator")
def check_layers_can_be_asked_in_any_order(allocator: Allocator) -> None:
    """What a layer gets does not depend on which layers were asked before it."""
    bucket = layouts.one_image()
    for asked in one_each(allocator, bucket):
        found: list[dict[int, Tensor]] = []
        for order in (asked.place.layers, asked.place.layers[::-1]):
            found.append({})
            for layer in order:
                signals = asked.signals(allocator, bucket, layer)
                found[-1][layer] = allocator.allocate(asked.request(bucket, layer), signals).counts
        for layer, counts in found[0].items():
            if not torch.equal(counts, found[1][layer]):
                fail(
                    f"layer {layer} gets {counts[0].tolist()} after the layers before it and "
                    f"{found[1][layer][0].tolist()} after those behind it ({asked})",
                    "a rest that is carried from call to call; work out the counts of all of request.layers at every "
                    "call, and return those of request.layer",
                )


@check("allocator")
def check_allocations_of_samples_are_independent(allocator: Allocator) -> None:
    """A sample's counts are those that it has alone, whatever its batch mates are."""
    bucket = layouts.several_images()
    tensors = {
        need: tensor / 4.0 ** torch.arange(bucket.batch).view(-1, *[1] * (tensor.dim() - 1))
        if tensor.is_floating_point()
        else tensor
        for need, tensor in tensors_for(allocator, bucket).items()
    }
    for asked in one_each(allocator, bucket):
        layer = asked.place.layers[0]
        request = asked.request(bucket, layer)
        together = allocator.allocate(request, signals_of(tensors, bucket, layer)).counts
        for sample in range(bucket.batch):
            alone = {need: tensor[sample : sample + 1] for need, tensor in tensors.items()}
            counts = allocator.allocate(request, signals_of(alone, bucket.take([sample]), layer)).counts[0]
            if not torch.equal(counts, together[sample]):
                fail(
                    f"sample {sample} of {bucket.batch} gets {together[sample].tolist()}, and {counts.tolist()} alone "
                    f"({asked})",
                    "a mean or maximum over the batch axis too, or the first sample's signals used for all",
                )


@check("allocator")
def check_diagnostics_are_finite(allocator: Allocator) -> None:
    """Diagnostics are named float tensors ``[batch]`` of finite numbers: reports and studies record them."""
    bucket = layouts.several_images()
    for asked in one_each(allocator, bucket):
        values: Values
        for values in ("normal", "zeros"):
            for name, tensor in allocate(allocator, asked, bucket, values).diagnostics.items():
                if not isinstance(name, str) or not isinstance(tensor, Tensor):
                    fail(
                        f"diagnostic {name!r} is a {type(tensor).__name__}, expected a name and a float tensor [batch]"
                    )
                if not tensor.is_floating_point() or list(tensor.shape) != [bucket.batch]:
                    fail(
                        f"diagnostic {name!r} is {tensor.dtype} {list(tensor.shape)}, expected float [batch] = "
                        f"[{bucket.batch}] ({asked})",
                        "one number for the whole batch, or one for each head",
                    )
                if not bool(tensor.isfinite().all()):
                    fail(
                        f"diagnostic {name!r} is {tensor.tolist()} on {values} signals ({asked})",
                        "a division by zero attention",
                    )
