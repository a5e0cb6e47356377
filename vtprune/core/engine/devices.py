"""Models spread over several devices, or whose weights are loaded layer by layer.

`device_map` (through accelerate) wraps the forward of every module: arguments are moved to the device on which it
computes, and offloaded weights, which lie on the meta device in between, are loaded for the time of the call. A
`forward_pre_hook` runs before that, so what reaches it still lies where the layer before has computed. The engine
therefore never asks a parameter where it is. A forward's own tensors lie where its embeddings do (`Flow.device`); what
is computed from keys lies where the keys are; whatever else meets them is brought there. On one device nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

HOOK = "_hf_hook"


def without_weights(model: nn.Module) -> str | None:
    """The name of the first parameter that has no value and that nothing loads when its module runs, or None.

    Parameters on the meta device are in order where a hook of accelerate loads them for the call, or where it computes
    on the meta device (a dry run).
    """
    served: tuple[str, ...] = ()
    for name, module in model.named_modules():  # a module comes before its children
        if _serves_meta(module):
            served = (*served, f"{name}." if name else "")
        for own, parameter in module.named_parameters(name, recurse=False):
            if parameter.is_meta and not any(own.startswith(prefix) for prefix in served):
                return own
    return None


def cuda_devices(model: nn.Module) -> frozenset[torch.device]:
    """The CUDA devices on which a model computes, also where its weights are brought there for a call only."""
    found = {parameter.device for parameter in model.parameters()}
    for module in model.modules():
        for hook in _hooks(module):
            place = getattr(hook, "execution_device", None)
            if place is not None:
                found.add(torch.device("cuda", place) if isinstance(place, int) else torch.device(place))
    return frozenset(device for device in found if device.type == "cuda")


def _serves_meta(module: nn.Module) -> bool:
    return any(
        getattr(hook, "offload", False) or str(getattr(hook, "execution_device", None)) == "meta"
        for hook in _hooks(module)
    )


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hook that accelerate has put on a module, or the several that it has joined into one."""
    hook = module.__dict__.get(HOOK)
    if hook is not None:
        yield from getattr(hook, "hooks", None) or (hook,)
