"""Components leave their arguments alone, whatever their kind: in value, in memory, in layout and in mode."""

from __future__ import annotations

import torch

from vtprune.core.component import COMPONENT_KINDS, Component
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs.trials import Tensors, difference, trials

KINDS = tuple(COMPONENT_KINDS)


@check(*KINDS)
def check_inputs_are_not_changed(component: Component) -> None:
    """A component leaves the tensors that it is handed as they are."""
    for trial in trials(component):
        inputs = trial.copies()
        versions = {name: tensor._version for name, tensor in inputs.items()}
        trial.call(inputs)
        for name, tensor in inputs.items():
            if tensor._version != versions[name] or not torch.equal(tensor, trial.inputs[name]):
                fail(
                    f"`{name}` was changed in place ({trial.label}): {int((tensor != trial.inputs[name]).sum())} of "
                    f"{tensor.numel()} values differ, version {versions[name]} -> {tensor._version}",
                    cause="an in-place operation on an argument, such as `x += 1`, `x[i] = 0` or a method that ends in "
                    "an underscore; write `x = x + 1`, or work on `x.clone()`",
                )


@check(*KINDS)
def check_results_share_no_memory_with_inputs(component: Component) -> None:
    """Results lie in memory of their own: to change one changes no argument."""
    for trial in trials(component):
        inputs = trial.copies()
        for result, made in trial.call(inputs).items():
            for name, tensor in inputs.items():
                if made.numel() and _memory(made) == _memory(tensor):
                    fail(
                        f"{result} shares its memory with the argument `{name}` ({trial.label})",
                        cause=f"`{name}` itself or a view of it (expand, a slice, an operation that changes nothing, "
                        f"as `.to()` of the same dtype does) was returned; return a clone",
                    )


@check(*KINDS)
def check_results_of_two_calls_share_no_memory(component: Component) -> None:
    """Every call returns memory of its own: to change one result changes no other."""
    for trial in trials(component):
        first, second = trial.run(), trial.run()
        for result, made in first.items():
            if made.numel() and result in second and _memory(made) == _memory(second[result]):
                fail(
                    f"{result} of two calls lies in the same memory ({trial.label})",
                    cause="a tensor that is kept between calls (a cache, a module-level constant) was returned",
                )


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@check(*KINDS)
def check_strides_do_not_matter(component: Component) -> None:
    """Arguments that are not contiguous, as slices of larger tensors are, give the same result."""
    for trial in trials(component):
        strided = {name: _strided(tensor) for name, tensor in trial.inputs.items()}
        try:
            made = trial.call(strided)
        except RuntimeError as error:
            if not any(word in str(error) for word in ("view", "contiguous", "stride")):
                raise
            fail(
                f"arguments that are not contiguous raise {type(error).__name__} ({trial.label}): "
                f"{str(error).partition('.')[0]}",
                cause="`.view(...)` on an argument; use `.reshape(...)` or `.flatten(...)`",
            )
        if found := difference(trial.run(), made, tolerance=1e-5):
            fail(
                f"arguments that are not contiguous give another result ({trial.label}): {found}",
                cause="the memory of a tensor was read past its strides (as_strided, storage, data_ptr)",
            )


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    """An equal tensor whose elements lie apart in every axis but one of length 1."""
    wide = tensor.new_zeros([2 * size for size in tensor.shape])
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


@check(*KINDS)
def check_inference_mode_changes_nothing(component: Component) -> None:
    """Under torch.inference_mode, in which generation often runs, the result is the same."""
    for trial in trials(component):
        with torch.inference_mode():
            made = trial.run()
        if found := difference(_plain(trial.run()), made):
            fail(
                f"the result under torch.inference_mode is another one ({trial.label}): {found}",
                cause="a decision by torch.is_grad_enabled() or tensor.is_inference()",
            )


def _plain(results: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in results.items()}
