"""Trials: single calls of a component, of whatever kind, on inputs that were made for it.

What holds for every kind (purity, devices, strides) is checked once, over the trials of the component at hand.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtprune.core.component import Component

Tensors = Mapping[str, Tensor]

BUILDERS = {
    "allocator": "vtprune.testing.inputs.requests:trials_of",
    "scorer": "vtprune.testing.inputs.scoring:trials_of_scorer",
    "selector": "vtprune.testing.inputs.candidates:trials_of",
    "reducer": "vtprune.testing.inputs.merging:trials_of",
}
"""Where the trials of a kind are made: a function of the component; imported when asked for."""


@dataclass(frozen=True)
class Trial:
    """One call of a component.

    label: what kind of input this is, for messages. inputs: the tensors that the component is handed, by name.
    call: runs the component on other tensors of these names (moved, copied, strided) and returns its results, by name.
    on_cpu: the inputs and results that lie on the CPU, on whatever device the others are.
    """

    label: str
    inputs: Tensors
    call: Callable[[Tensors], Tensors]
    on_cpu: frozenset[str] = frozenset()

    def run(self) -> Tensors:
        """The results on fresh copies of the inputs, so that no trial sees what an earlier one left behind."""
        return self.call(self.copies())

    def copies(self) -> dict[str, Tensor]:
        """The inputs in fresh memory."""
        return {name: tensor.clone() for name, tensor in self.inputs.items()}

    def moved(self, device: torch.device) -> Trial:
        """The same call with its inputs on a device, save those that lie on the CPU anyway."""
        moved = {name: t if name in self.on_cpu else t.to(device) for name, t in self.inputs.items()}
        return replace(self, inputs=moved)


def trials(component: Component) -> tuple[Trial, ...]:
    """A few calls of the component on ordinary inputs of its kind; the same ones each time."""
    if component.kind not in BUILDERS:
        return ()
    module, _, name = BUILDERS[component.kind].partition(":")
    build: Callable[[Any], Iterable[Trial]] = getattr(importlib.import_module(module), name)
    return tuple(build(component))


def difference(first: Tensors, second: Tensors, tolerance: float = 0.0) -> str | None:
    """In what two results differ, or None. tolerance: relative and absolute, of floats; other dtypes are exact."""
    if first.keys() != second.keys():
        return f"the results {sorted(first)} became {sorted(second)}"
    for name, one in first.items():
        other = second[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{name} is {one.dtype} {list(one.shape)} in one and {other.dtype} {list(other.shape)} in the other"
        same = one == other
        if one.is_floating_point():
            close = torch.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
            same = same | close
        if not bool(same.all()):
            at = (~same).nonzero()[0].tolist()
            pair = one[tuple(at)].item(), other[tuple(at)].item()
            digits = 6 if f"{pair[0]:.6g}" != f"{pair[1]:.6g}" else 17  # as many as tell them apart
            values = f"{pair[0]:.{digits}g} and {pair[1]:.{digits}g}"
            return f"{name} differs in {int((~same).sum())} of {same.numel()} places, first at {at}: {values}"
    return None
