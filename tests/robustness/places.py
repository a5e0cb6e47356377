"""Models over two devices on a machine that has one.

`dispatched` wraps the forward of every module as accelerate does for a `device_map`: arguments are brought to the
device of the module, the cache is not, and outputs return to the device of the input. The second device is `meta`, in
one of two ways. With ``values`` it is pretended (`vtprune.testing.pretend_device`). Without, it is the real meta
device: no values, but torch's own opinion of what may be mixed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.testing.pretend_device import FAR, NEAR, Far, pretended_device


def brought(value: Any, device: torch.device) -> Any:
    """Tensors, those in tuples, lists and dicts, and what else knows how to move, on a device."""
    if hasattr(value, "to"):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(brought(item, device) for item in value)
    return {key: brought(item, device) for key, item in value.items()} if type(value) is dict else value


@contextmanager
def dispatched(original: Any, far: Sequence[str], *, values: bool) -> Iterator[Any]:
    """A copy of a model, whose modules with these paths (and what is inside them) compute on the second device."""
    model = copy.deepcopy(original)
    with pretended_device() if values else nullcontext():
        for path, module in model.named_modules():
            is_far = any(path == block or path.startswith(f"{block}.") for block in far)
            if is_far:
                for held in (module._parameters, module._buffers):
                    for name, tensor in held.items():
                        if tensor is not None:
                            held[name] = _placed(tensor, values)
            if path and (is_far or module.state_dict()):
                _wrap(module, FAR if is_far else NEAR)
        forward = model.forward

        @functools.wraps(forward)
        def returning(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            output.logits = output.logits.to(NEAR) if values else output.logits
            return output

        model.forward = returning
        yield model


def _placed(tensor: Tensor, values: bool) -> Tensor:
    moved: Tensor = Far(tensor.detach()) if values else tensor.detach().to(FAR)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def _wrap(module: Any, device: torch.device) -> None:
    forward: Callable[..., Any] = module.forward

    @functools.wraps(forward)
    def moving(*args: Any, **kwargs: Any) -> Any:
        kwargs = {name: held if name == "past_key_values" else brought(held, device) for name, held in kwargs.items()}
        return forward(*brought(args, device), **kwargs)

    module.forward = moving
    module._hf_hook = SimpleNamespace(execution_device=device, offload=False)
