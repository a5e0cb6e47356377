"""Components work on the device that their arguments are on, which is a pretended one here."""

from __future__ import annotations

import torch

from vtprune.core.component import COMPONENT_KINDS, Component
from vtprune.testing.checking import check, fail
from vtprune.testing.inputs.trials import Trial, trials
from vtprune.testing.pretend_device import MixedDevicesError, pretended_device

KINDS = tuple(COMPONENT_KINDS)


@check(*KINDS)
def check_devices_are_not_mixed(component: Component) -> None:
    """No operation mixes the device of the arguments with the CPU."""
    for trial in trials(component):
        with pretended_device() as device:
            moved = trial.moved(device)
            try:
                moved.run()
            except MixedDevicesError as error:
                fail(
                    f"{error} ({trial.label})",
                    cause="a tensor was made without `device=`, such as torch.arange(n) or torch.zeros(n), or "
                    f"{_named(trial)} was used beside tensors of the device; make it there, or bring it there by .to()",
                )


@check(*KINDS)
def check_results_are_on_the_device_of_the_arguments(component: Component) -> None:
    """Results lie on the device of the arguments; counts, which are read one by one, on the CPU."""
    for trial in trials(component):
        with pretended_device() as device:
            try:
                made = trial.moved(device).run()
            except MixedDevicesError:
                continue
            for name, tensor in made.items():
                expected = torch.device("cpu") if name in trial.on_cpu else device
                if tensor.device.type != expected.type:
                    where, right = (_where(place, device) for place in (tensor.device, expected))
                    fail(
                        f"{name} lies on {where}, expected {right} ({trial.label})",
                        cause=".cpu(), .numpy() or .tolist() on the way, or a tensor made without `device=`"
                        if right != "the CPU"
                        else "they were left on the device; end with .cpu()",
                    )


def _named(trial: Trial) -> str:
    names = sorted(trial.on_cpu & trial.inputs.keys())
    return " or ".join(f"`{name}`, which lies on the CPU," for name in names) or "a number"


def _where(place: torch.device, device: torch.device) -> str:
    return "the CPU" if place.type == "cpu" else "the device of the arguments" if place == device else str(place)
