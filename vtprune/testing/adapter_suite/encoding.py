"""The boundary of an unhooked model: its calls of ``get_image_features`` and ``get_video_features``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Modality, VisionCall
from vtprune.core.engine.replacing import replaced
from vtprune.core.engine.tower import returned_features


@dataclass(frozen=True)
class Asked:
    """A call that the model made of its own encoding method. arguments: by parameter name."""

    modality: Modality
    arguments: Mapping[str, Any]


@torch.no_grad()
def asked(model: Any, inputs: Mapping[str, Tensor]) -> list[Asked]:
    """The calls of a forward, outermost ones only: a family's method for videos may call the one for images."""
    base, found, inside = model.base_model, list[Asked](), [False]

    def watched(modality: Modality, original: Callable[..., Any]) -> Callable[..., Any]:
        parameters = signature(original)

        @wraps(original)
        def encode(*args: Any, **kwargs: Any) -> Any:
            if inside[0]:
                return original(*args, **kwargs)
            arguments: dict[str, Any] = {}
            for name, value in parameters.bind(*args, **kwargs).arguments.items():
                is_rest = parameters.parameters[name].kind is Parameter.VAR_KEYWORD
                arguments.update(value if is_rest else {name: value})
            found.append(Asked(modality, arguments))
            inside[0] = True
            try:
                return original(*args, **kwargs)
            finally:
                inside[0] = False

        return encode

    with ExitStack() as stack:
        for modality in get_args(Modality):
            name = f"get_{modality}_features"
            if hasattr(base, name):
                stack.enter_context(replaced(base, name, watched(modality, getattr(base, name))))
        model(**inputs)
    return found


def leaves(call: Asked) -> tuple[Asked, dict[str, Tensor]]:
    """The same call with float arguments that want gradients, and those by name."""
    found = {
        name: value.detach().clone().requires_grad_()
        for name, value in call.arguments.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return Asked(call.modality, {**call.arguments, **found}), found


def distinct(call: Asked) -> Asked:
    """The same call with float arguments in which no number but 0 occurs twice, so that a number tells where it is
    from."""
    found: dict[str, Any] = dict(call.arguments)
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            numbers = torch.arange(1, value.numel() + 1) / value.numel()
            shuffled = numbers[torch.randperm(value.numel(), generator=torch.Generator().manual_seed(2))]
            found[name] = shuffled.view(value.shape).to(value) * (value != 0)
    return Asked(call.modality, found)


def encode(model: Any, call: Asked) -> VisionCall:
    """Make a call again."""
    arguments = dict(call.arguments)
    if arguments.get("return_dict") is False:
        arguments["return_dict"] = True
    output = getattr(model.base_model, f"get_{call.modality}_features")(**arguments)
    return VisionCall(call.modality, arguments, output, returned_features(output))


@contextmanager
def noting(module: nn.Module, read: Callable[[Any, Any, Any], Any], before: bool = False) -> Iterator[list[Any]]:
    """What ``read(args, kwargs, output)`` finds in every call of a module; ``before``: on entering it (output None)."""
    found: list[Any] = []
    if before:
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: found.append(read(args, kwargs, None)), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(
            lambda _, args, kwargs, output: found.append(read(args, kwargs, output)), with_kwargs=True
        )
    try:
        yield found
    finally:
        handle.remove()


def entering(args: Any, kwargs: Any, output: Any) -> Tensor:
    """The first tensor that a module was given."""
    found: Tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    return found


def leaving(args: Any, kwargs: Any, output: Any) -> Tensor:
    """The first tensor that a module returned."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@contextmanager
def layers_pass_by(layers: tuple[nn.Module, ...]) -> Iterator[None]:
    """Vision layers that return what they were given, so that every patch stays by itself."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = entering(args, kwargs, output)
        return (given, *output[1:]) if isinstance(output, tuple) else given

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def gradients(values: Tensor, of: list[Tensor]) -> Iterator[list[Tensor]]:
    """For each of ``values``, float ``[value]``, its gradient with respect to every tensor; zeros where there is
    none."""
    for value in values:
        if value.grad_fn is None:
            yield [torch.zeros_like(tensor) for tensor in of]
            continue
        found = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)
        yield [torch.zeros_like(at) if grad is None else grad for at, grad in zip(of, found, strict=True)]


def projected(features: Tensor) -> Tensor:
    """One number per token, float ``[vision]``, that depends on all of its features ``[vision, dim]``."""
    return features @ torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0))
