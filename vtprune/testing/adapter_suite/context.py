"""Checks of what a run leaves behind: nothing, whatever happens in it; and that an adapter's functions change
nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vtprune.testing.adapter_suite.frame import adapter_check, blaming
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import fail
from vtprune.testing.restoration import changes, snapshot

WRITES = "a function of the adapter (`images`, `tower_rows`, `project`, ...) writes to the model; it must only read"


class _Fault(Exception):
    """Raised by a foreign hook."""


def _run(trial: Trial) -> Tensor:
    with torch.no_grad():
        found: Tensor = trial.model(**trial.inputs("one")).logits
    return found


@contextmanager
def _unchanged(trial: Trial, what: str) -> Iterator[None]:
    _run(trial)  # at its first forward transformers puts on hooks of its own that stay
    before = snapshot(trial.model)
    yield
    if found := changes(before, snapshot(trial.model)):
        fail(f"{what}, {len(found)} things have changed in the model: {', '.join(found[:4])}", WRITES)


def _busy(trial: Trial) -> Any:
    """A stage at which as much of the adapter as possible is used."""
    return trial.prune("projector" if trial.adapter.projector_rows is None else "vision")


@adapter_check()
def check_adapter_functions_only_read(trial: Trial) -> None:
    """The adapter's functions change neither the model nor a call's arguments, and say the same every time."""
    adapter, model = trial.adapter, trial.model
    with _unchanged(trial, "after the adapter's functions were called"):
        for each in trial.encoded("two"):
            features = {f"features[{number}]": value for number, value in enumerate(each.call.features)}
            given = {**each.call.arguments, **features}
            tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
            versions = {name: value._version for name, value in tensors.items()}
            for _ in range(2):
                again = adapter.images(model, each.call)
                for field in ("tower_rows", "projector_rows", "windows"):
                    function = getattr(adapter, field)
                    if function is not None:
                        function(model, each.call, again)
            if [(i.tokens, i.grid, i.image) for i in again] != [(i.tokens, i.grid, i.image) for i in each.images]:
                fail("images() gave something else at a later call with the same arguments", "`images` keeps a state")
            for name, tensor in tensors.items():
                if tensor._version != versions[name]:
                    fail(f"{name} was changed in place", "a function of the adapter; use an operation that copies")


@adapter_check()
def check_adapter_restores_the_model(trial: Trial) -> None:
    """Leaving the with-block leaves hooks, attributes, configs, tensors and global tables as they were."""
    plain = _run(trial)
    with _unchanged(trial, "after the with-block"), blaming("`images`"), _busy(trial):
        _run(trial)
    if not torch.equal(_run(trial), plain):
        fail("the model gives other logits after the with-block than before", WRITES)


@adapter_check()
def check_adapter_restores_after_an_exception(trial: Trial) -> None:
    """The same where the model raises in the middle of a forward; and the run goes on working."""

    def explode(*ignored: Any) -> None:
        raise _Fault

    with _unchanged(trial, "after an exception in the with-block"), blaming("`images`"), _busy(trial) as run:
        expected = _run(trial)
        handle = trial.parts.layers[-1].register_forward_hook(explode)
        try:
            _run(trial)
        except _Fault:
            pass
        else:
            fail("the last decoder layer did not run", "`language_model`")
        finally:
            handle.remove()
        if not torch.equal(_run(trial), expected):
            fail("after an exception the same run gives other logits", WRITES)
        assert run.reports


@adapter_check()
def check_adapter_leaves_foreign_hooks(trial: Trial) -> None:
    """Hooks that others have put on the model stay, and are called as often as without pruning."""
    calls: list[str] = []
    modules = {"vision": trial.parts.vision_tower, "decoder": trial.parts.layers[0], "model": trial.model}
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, module in modules.items()
    ]
    try:
        _run(trial)
        plain = list(calls)
        with _unchanged(trial, "with hooks of somebody else"), blaming("`images`"), _busy(trial):
            calls.clear()
            _run(trial)
            inside = list(calls)
    finally:
        for handle in handles:
            handle.remove()
    if inside != plain:
        fail(f"hooks of somebody else were called as {inside} instead of {plain}", WRITES)


@adapter_check()
def check_adapter_nests(trial: Trial) -> None:
    """Of nested runs the innermost acts, then the outer one again; afterwards the model is as it was."""
    with blaming("`images`"), trial.prune("projector"):
        outer = _run(trial)
    with blaming("`images`"), trial.prune("llm"):
        inner = _run(trial)
    with _unchanged(trial, "after nested with-blocks"), blaming("`images`"), trial.prune("projector"):
        with trial.prune("llm"):
            first = _run(trial)
        second = _run(trial)
    if not torch.equal(first, inner):
        fail("inside two with-blocks the model does not do what the inner one does alone", WRITES)
    if not torch.equal(second, outer):
        fail("after the inner with-block the model does not do what the outer one does alone", WRITES)
