"""A second device made of CPU memory: what CUDA refuses to mix is refused on a machine without CUDA.

Its tensors say that they lie on the `meta` device, hold their values on the CPU, and every operation is carried out
there. One that mixes devices, as CUDA would refuse it, raises MixedDevicesError::

    with pretended_device():
        far = torch.arange(3.0).to(FAR)
        far + 1                # fine, and still far
        far + torch.ones(3)    # MixedDevicesError

As on CUDA, a CPU tensor without axes (a number) may meet tensors of the device, and a CPU tensor may index one.

Limits: the device is called `meta`, so code that asks for a device by name takes another way, and it has no generator
of its own. A function that checks devices by itself, not in its operations (autocast, streams, pinned memory), is not
noticed. The kernels are those of the CPU: rounding, and operations that CUDA lacks, are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

FAR = torch.device("meta")
NEAR = torch.device("cpu")
MOVES = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations whose index tensors may also lie on the CPU."""
STRICT = {"aten::cat", "aten::stack"}
"""Operations that refuse even a CPU tensor without axes."""


class MixedDevicesError(RuntimeError):
    """An operation met tensors of both devices."""


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

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


def carried_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU, with its result where the operation would have left it."""
    leaves, spec = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    lost = [leaf for leaf in tensors if leaf.is_meta and not isinstance(leaf, Far)]
    assert not lost, f"{func}: a tensor was made on the meta device unseen, its values are lost"
    name, far = func._schema.name, any(isinstance(leaf, Far) for leaf in tensors)
    if name not in MOVES and far:
        _refuse_mixture(name, [args[0], *args[2:3]] if name in INDEXED else tensors)
    place = kwargs.get("device")
    if place is not None:
        far = torch.device(place) == FAR
    elif name == "aten::copy_":
        far = isinstance(tensors[0], Far)
    if far and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise MixedDevicesError(f"{name.removeprefix('aten::')} on the device was given a generator of the CPU")
    back = {id(leaf.held): leaf for leaf in tensors if isinstance(leaf, Far)}
    args, kwargs = tree_unflatten([leaf.held if isinstance(leaf, Far) else leaf for leaf in leaves], spec)
    result = func(*args, **(kwargs | {"device": NEAR} if place is not None else kwargs))
    if place is not None and not far and any(result is leaf.held for leaf in back.values()):
        result = result.clone()
    return tree_map(lambda leaf: back.get(id(leaf), Far(leaf)) if isinstance(leaf, Tensor) and far else leaf, result)


def _refuse_mixture(name: str, tensors: list[Tensor]) -> None:
    """Raise MixedDevicesError where CUDA would. tensors: what has to lie on one device."""
    near = [leaf for leaf in tensors if not isinstance(leaf, Far)]
    changed = name.endswith("_") and not isinstance(tensors[0], Far)
    if changed or any(leaf.dim() or name in STRICT for leaf in near) or len(near) == len(tensors):
        shapes = ", ".join(f"{_place(leaf)} {list(leaf.shape)}" for leaf in tensors)
        raise MixedDevicesError(f"{name.removeprefix('aten::')} was given tensors on both devices: {shapes}")


def _place(tensor: Tensor) -> str:
    return "device" if isinstance(tensor, Far) else "CPU"


class Pretending(TorchDispatchMode):
    """While it is on, what is sent to or made on the second device keeps its values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


class Placing(TorchFunctionMode):
    """Sees to what torch does where no operation is seen: it fills a new tensor of given numbers, and turns a list that
    serves as an index into a tensor. Both are made on the CPU, and the former is moved."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor:
            own, data = args
            func, args, kwargs = torch.tensor, (data,), {"dtype": own.dtype, "device": own.device, **kwargs}
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _indexed(args[1]), *args[2:])
        place = kwargs.get("device") if func in (torch.tensor, torch.as_tensor) else None
        return func(*args, **kwargs) if place is None else func(*args, **kwargs | {"device": NEAR}).to(place)


def _indexed(index: Any) -> Any:
    """An index in which lists of numbers are tensors on the CPU, which index tensors of any device."""
    if isinstance(index, tuple):
        return tuple(map(_indexed, index))
    return (
        torch.tensor(index) if isinstance(index, list) and all(type(item) in (int, bool) for item in index) else index
    )


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """While the context is open, `FAR` is a device whose tensors have values."""
    with Placing(), Pretending():
        yield FAR
