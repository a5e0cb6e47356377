"""Checks of reducers: where they serve, what merging returns, and that no token is lost or counted twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtprune.core.component import Merged, Reducer
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs.candidates import FEATURES
from vtprune.testing.inputs.merging import Merging, merging
from vtprune.testing.inputs.trials import difference

SITES = frozenset({"hidden", "kv"})
HALF = (torch.bfloat16, torch.float16)


def merging_at_all(reducer: Reducer) -> str | None:
    """None for a reducer that defines ``merge``, else why a check does not apply."""
    return None if reducer.merges else "it does not define merge"


def kept_of(given: Merging, merged: Merged | None) -> dict[str, Tensor]:
    """What the engine reads: features ``[kept, dim]`` and sizes ``[kept]`` of the kept tokens of all samples."""
    if merged is None:
        return {"features": given.features[given.keep], "sizes": given.sizes[given.keep]}
    return {"features": merged.features[given.keep], "sizes": merged.sizes[given.keep]}


@check("reducer")
def check_sites_are_known(reducer: Reducer) -> None:
    """A reducer says which sites it serves: ``hidden``, ``kv`` or both."""
    sites: Any = getattr(reducer, "sites", None)
    if not isinstance(sites, frozenset) or not sites or not sites <= SITES:
        fail(
            f"sites is {sites!r}, expected a frozenset with 'hidden', 'kv' or both",
            cause='it is a class variable: sites: ClassVar = frozenset({"hidden"})',
        )


@check("reducer", applies=merging_at_all)
def check_only_hidden_sites_are_merged_at(reducer: Reducer) -> None:
    """A reducer that defines ``merge`` serves ``hidden`` sites: nothing is merged inside a KV cache."""
    if "hidden" not in reducer.sites:
        fail(
            f"merge is defined, but sites is {sorted(reducer.sites)}: it would never be called",
            cause="merging works on hidden states only; add 'hidden', or leave merge out",
        )


@check("reducer", applies=merging_at_all)
def check_merge_returns_features_and_sizes(reducer: Reducer) -> None:
    """``merge`` returns None, or a Merged with features and sizes (float32) in the shapes of those that came in."""
    given = merging()
    merged = given.by(reducer)
    if merged is None:
        return
    if not isinstance(merged, Merged):
        fail(f"merge returned a {type(merged).__name__}, expected Merged(features, sizes) or None")
    for name, made, expected in (
        ("features", merged.features, given.features),
        ("sizes", merged.sizes, given.sizes),
    ):
        if made.shape != expected.shape:
            fail(
                f"merged {name} have the shape {list(made.shape)}, expected {list(expected.shape)}, as given",
                cause="the kept tokens alone were returned; all tokens are expected, of which the kept ones are read",
            )
    if merged.sizes.dtype != torch.float32:
        fail(f"merged sizes are {merged.sizes.dtype}, expected torch.float32", cause="whole numbers, or half precision")


@check("reducer", applies=merging_at_all)
def check_merged_features_keep_their_dtype(reducer: Reducer) -> None:
    """Merged features have the dtype of the features that came in."""
    for dtype in (*HALF, torch.float32):
        merged = merging(dtype=dtype).by(reducer)
        if merged is not None and merged.features.dtype != dtype:
            fail(
                f"features in {dtype} came back in {merged.features.dtype}",
                cause="they were computed in float32 (which is right) and not brought back: end with "
                ".to(features.dtype)",
            )


@check("reducer", applies=merging_at_all)
def check_merging_nothing_changes_nothing(reducer: Reducer) -> None:
    """A sample that keeps every token is left as it is, bit for bit, also beside samples that do not."""
    for label, kept in (("alone", (12,)), ("beside a sample that keeps 4", (4, 12))):
        given = merging(kept)
        merged = given.by(reducer)
        if merged is None:
            continue
        before, after = ({"features": t.features[-1], "sizes": t.sizes[-1]} for t in (given, merged))
        if found := difference(before, after):
            fail(
                f"a sample that keeps every token is changed ({label}): {found}",
                cause="every token is averaged, normalised or cast on the way; write only to tokens that receive "
                "something",
            )


@check("reducer", applies=merging_at_all)
def check_keeping_nothing_does_no_harm(reducer: Reducer) -> None:
    """A sample that keeps no token, so that there is nothing to merge into, raises no error and spoils no other."""
    for kept in ((0,), (5, 0)):
        given = merging(kept)
        try:
            merged = given.by(reducer)
        except Exception as error:
            fail(
                f"a sample that keeps no token raises {type(error).__name__}: {error}",
                cause="a maximum or a mean over no kept token; pass such samples over",
            )
        _finite(given, merged, "beside a sample that keeps no token")


@check("reducer", applies=merging_at_all)
def check_sizes_are_conserved(reducer: Reducer) -> None:
    """The sizes of the kept tokens add up to those of all tokens: none is lost, none is counted twice."""
    for dtype in (torch.float32, torch.bfloat16):
        given = merging((40, 1, 259), vision=260, dtype=dtype)
        merged = given.by(reducer)
        if merged is None:
            continue
        for sample, keep in enumerate(given.keep):
            before, after = float(given.sizes[sample].sum()), float(merged.sizes[sample, keep].sum())
            if abs(after - before) > 1e-4 * before:
                fail(
                    f"the kept tokens of sample {sample} stand for {after:g} tokens in all, expected {before:g}",
                    cause="sizes were counted instead of added, or added in half precision; if it drops some tokens "
                    "for good, declare this check in expected_failures",
                )


@check("reducer", applies=merging_at_all)
def check_kept_tokens_keep_their_own_size(reducer: Reducer) -> None:
    """A kept token stands for at least the tokens that it stood for before."""
    given = merging((7, 3, 11))
    merged = given.by(reducer)
    if merged is not None and bool((shrunk := given.keep & (merged.sizes < given.sizes)).any()):
        at = shrunk.nonzero()[0].tolist()
        fail(
            f"the size of token {at[1]} of sample {at[0]} fell from {float(given.sizes[tuple(at)]):g} to "
            f"{float(merged.sizes[tuple(at)]):g}",
            cause="sizes were set instead of added to",
        )


@check("reducer", applies=merging_at_all)
def check_merged_values_are_finite(reducer: Reducer) -> None:
    """Constant, zero, copied, huge and tiny features merge into finite ones."""
    for kind in FEATURES:
        given = merging((4, 9, 1), kind=kind)
        _finite(given, given.by(reducer), f"{kind} features")


@check("reducer", applies=merging_at_all)
def check_half_precision_does_not_overflow(reducer: Reducer) -> None:
    """Large features in float16 merge into finite ones, though their sum is beyond float16."""
    given = merging((2, 1), vision=64, dtype=torch.float16)
    big = Merging(torch.full_like(given.features, 4e4), given.keep, given.sizes)
    _finite(big, big.by(reducer), "features of 4e4 in float16")


@check("reducer", applies=merging_at_all)
def check_half_precision_is_merged_in_float32(reducer: Reducer) -> None:
    """Features in half precision are merged as the same numbers in float32 are, and rounded at the end."""
    for dtype in HALF:
        given = merging((2, 9), vision=400, dtype=dtype)
        half = Merging((given.features.abs() + 1).to(dtype), given.keep, given.sizes)
        full = Merging(half.features.float(), given.keep, given.sizes)
        made, exact = kept_of(half, half.by(reducer)), kept_of(full, full.by(reducer))
        rounded = {"features": made["features"].float(), "sizes": made["sizes"].float()}
        if found := difference(exact, rounded, tolerance=2 * torch.finfo(dtype).eps):
            fail(
                f"features in {dtype} and the same numbers in float32 are merged differently: {found}",
                cause="similarities or sums in half precision, which holds neither; begin with features.float()",
            )


def _finite(given: Merging, merged: Merged | None, label: str) -> None:
    for name, values in kept_of(given, merged).items():
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            fail(
                f"{bad} of {values.numel()} merged {name} are NaN or infinite ({label})",
                cause="a division by a norm or a number of tokens that is 0, or a sum in half precision; compute in "
                "float32 and guard the denominator",
            )


@check("reducer", applies=merging_at_all)
def check_samples_are_merged_alone(reducer: Reducer) -> None:
    """A sample alone is merged as it is in company."""
    given = merging((4, 9, 1))
    together = given.by(reducer)
    for sample in range(len(given.keep)):
        alone = given.sample(sample)
        expected = kept_of(alone, alone.by(reducer))
        keep = given.keep[sample]
        made = given if together is None else together
        found = difference(expected, {"features": made.features[sample, keep], "sizes": made.sizes[sample, keep]}, 1e-5)
        if found:
            fail(
                f"sample {sample} of 3 is merged differently alone: {found}",
                cause="tokens of another sample were merged into it, or a mean over the batch",
            )


@check("reducer", applies=merging_at_all)
def check_merging_can_be_differentiated(reducer: Reducer) -> None:
    """Gradients flow through merging into the kept tokens, and are finite: a model is trained with pruning on."""
    given = merging((4, 9))
    features = given.features.clone().requires_grad_()
    merged = reducer.merge(features, given.keep.clone(), given.sizes.clone())
    if merged is None:
        return
    total = merged.features[given.keep].square().sum()
    if not total.requires_grad:
        fail("merged features carry no gradient", cause=".detach(), .data, torch.no_grad or a way through numpy")
    (gradient,) = torch.autograd.grad(total, features)
    if not bool(gradient.isfinite().all()):
        fail("the gradient is not finite", cause="the derivative of a norm or a root at 0")
    if bool((still := given.keep & (gradient == 0).all(-1)).any()):
        fail(f"{int(still.sum())} kept tokens get no gradient", cause="a part of the result is detached")
