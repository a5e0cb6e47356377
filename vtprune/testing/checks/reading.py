"""Checks of scorers and allocators: they read the signals that they declare, all of them and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from vtprune.core.component import Allocator, Component, Scorer
from vtprune.core.signals import Need
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs.layouts import Bucket, one_image, survivors
from vtprune.testing.inputs.requests import accepted, middling
from vtprune.testing.inputs.signals import Offer, Values, signals_for

SEEN: tuple[Values, ...] = ("normal", "one_hot", "zeros")


def used(component: Component) -> Iterator[tuple[Offer, Callable[[], Bucket]]]:
    """Signals after the component has read them, one for every kind of input, and what made their bucket."""
    if isinstance(component, Scorer):
        for values in SEEN:
            for make in (one_image, survivors):
                signals = signals_for(component, make(), values=values)
                component.score(signals)
                yield signals, make
    if isinstance(component, Allocator):
        for taken in accepted(component, one_image()).values():
            for values in SEEN:
                bucket = one_image()
                asked = middling(taken, bucket)
                for layer in asked.place.layers:
                    signals = asked.signals(component, bucket, layer, values)
                    component.allocate(asked.request(bucket, layer), signals)
                    yield signals, one_image


@check("scorer", "allocator")
def check_reads_only_what_it_declares(component: Component) -> None:
    """Every signal that is read is declared in ``needs()``: others are not there in a model."""
    for signals, _ in used(component):
        if undeclared := sorted(map(str, signals.read - component.needs())):
            declared = ", ".join(sorted(map(str, component.needs()))) or "nothing"
            fail(
                f"it read {', '.join(undeclared)}, but needs() declares {declared}",
                "needs() was not brought up to date, or differs in a query or layer",
            )


@check("scorer", "allocator")
def check_reads_all_that_it_declares(component: Component) -> None:
    """Every signal that ``needs()`` declares is read: capturing one costs time and memory, and may be impossible.

    The need for a grid also promises that segments have one, which can be read there.
    """
    found = [signals.read | ({Need("grid")} if signals.looked else set()) for signals, _ in used(component)]
    if found and (unread := sorted(map(str, component.needs().difference(*found)))):
        fail(
            f"needs() declares {', '.join(unread)}, which was not read on any input",
            "a left-over of an earlier version; drop it, or let needs() follow the parameters that decide about it",
        )


@check("scorer", "allocator")
def check_layouts_are_not_changed(component: Component) -> None:
    """The layouts, which the engine and later stages go on using, stay as they are."""
    for signals, make in used(component):
        for sample, (found, made) in enumerate(zip(signals.layouts, make().layouts, strict=True)):
            if found.segments != made.segments or not torch.equal(found.positions, made.positions):
                fail(
                    f"the layout of sample {sample} was changed: its positions begin with "
                    f"{found.positions[:3].tolist()} in place of {made.positions[:3].tolist()}",
                    "an in-place operation on `layout.positions`, such as `positions -= start`; work on a clone",
                )
