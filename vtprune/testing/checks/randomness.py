"""Components leave the global random generators alone: whoever uses a component may be using those."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from vtprune.core.component import Component
from vtprune.core.task import Task
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.common import EVERY
from vtprune.testing.inputs.trials import trials
from vtprune.testing.observation import cases, outcome


@check(*EVERY)
def check_global_generators_are_left_alone(component: Component) -> None:
    """A component neither draws from nor seeds the global random generators of torch, numpy and Python."""
    with elsewhere():
        before = _generators()
        for trial in trials(component):
            trial.run()
        for case in cases(component) if isinstance(component, Task) else ():
            outcome(case, component)
        after = _generators()
    for library, state in before.items():
        if state != after[library]:
            fail(f"the global generator of {library} was drawn from or seeded", f"{_CAUSES[library]}, seeded by itself")


@contextmanager
def elsewhere() -> Iterator[None]:
    """The generators in a state of their own, in case that an earlier call seeded them already; then back again."""
    torch_state, numpy_state, state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(8191)
        np.random.seed(8191)
        random.seed(8191)
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(state)


_CAUSES = {
    "torch": "torch.rand or torch.randperm without `generator=`, torch.manual_seed; make a torch.Generator",
    "numpy": "np.random.rand, np.random.shuffle, np.random.seed; make one by np.random.default_rng",
    "Python": "random.random, random.shuffle, random.seed; make a random.Random",
}


def _generators() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy_state[1].tolist(), *numpy_state[2:]),
        "Python": random.getstate(),
    }
