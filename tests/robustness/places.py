"""Models over two devices on a machine that has one.

`dispatched` wraps the forward of every module as accelerate does for a `device_map`: arguments are brought to the
device of the module, the cache is not, and outputs return to the device of the input. The second device is `meta`, in
one of two ways. With ``values`` it only says so: its tensors are held on the CPU, every operation is carried out there,
and one that mixes devices, as CUDA would refuse it, raises. Without, it is the real meta device: no values, but torch's
own opinion of what may be mixed.
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
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

FAR = torch.device("meta")
NEAR = torch.device("cpu")
MOVES = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations whose index tensors may also lie on the CPU."""


class Far(Tensor):
    """A CPU tensor that says it lies on the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Far:
        made: Far = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=FAR
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.held!r})"

    def tolist(self) -> Any:
        """As on any device; torch itself refuses subclasses."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


class MixedDevicesError(RuntimeError):
    """An operation met tensors of both devices."""


def carried_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU, with its result where the operation would have left it."""
    leaves, spec = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    lost = [leaf for leaf in tensors if leaf.is_meta and not isinstance(leaf, Far)]
    assert not lost, f"{func}: a tensor was made on the meta device behind the test's back, its values are lost"
    name, far = func._schema.name, any(isinstance(leaf, Far) for leaf in tensors)
    if name not in MOVES:
        first = tensors[:1] if name in INDEXED and far else tensors
        sizeable = [leaf for leaf in first if leaf.dim()]
        if far and (not isinstance(first[0], Far) or not all(isinstance(leaf, Far) for leaf in sizeable)):
            shapes = [(str(leaf.device), list(leaf.shape)) for leaf in tensors]
            raise MixedDevicesError(f"{func} was given tensors on both devices: {shapes}")
    place = kwargs.get("device")
    if place is not None:
        far = torch.device(place) == FAR
    elif name == "aten::copy_":
        far = isinstance(tensors[0], Far)
    back = {id(leaf.held): leaf for leaf in tensors if isinstance(leaf, Far)}
    args, kwargs = tree_unflatten([leaf.held if isinstance(leaf, Far) else leaf for leaf in leaves], spec)
    result = func(*args, **(kwargs | {"device": NEAR} if place is not None else kwargs))
    if place is not None and not far and any(result is leaf.held for leaf in back.values()):
        result = result.clone()
    return tree_map(lambda leaf: back.get(id(leaf), Far(leaf)) if isinstance(leaf, Tensor) and far else leaf, result)


class Pretending(TorchDispatchMode):
    """While it is on, what is sent to or made on the second device keeps its values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


class Placing(TorchFunctionMode):
    """``torch.tensor(..., device=...)`` fills the tensor where no operation is seen; here it is moved there."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        place = kwargs.get("device") if func in (torch.tensor, torch.as_tensor) else None
        return func(*args, **kwargs) if place is None else func(*args, **kwargs | {"device": NEAR}).to(place)


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
    with Placing() if values else nullcontext(), Pretending() if values else nullcontext():
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
