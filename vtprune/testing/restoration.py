"""What pruning could leave changed in a model and in the process: taken before, compared after."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
SELF_WRITTEN = ("rope_deltas",)
"""What models write into themselves at every prompt, with and without vtprune (Qwen-VL)."""


@dataclass(frozen=True, eq=False)
class _Itself:
    """An object, equal to nothing but itself. Held, so that no other object can come to stand at its address."""

    held: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.held is other.held

    __hash__ = None  # type: ignore[assignment]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything outside the numbers that pruning could leave changed, by a readable name."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        name = path or type(model).__name__
        for kind in HOOKS:
            found[f"{name}.{kind}"] = list(getattr(module, kind).items())
        skipped = {*HOOKS, "_parameters", "_buffers", "_modules", *SELF_WRITTEN}
        found.update({f"{name}.{key}": _Itself(value) for key, value in vars(module).items() if key not in skipped})
        found[f"{name}.forward()"] = getattr(module.forward, "__func__", module.forward)
        if hasattr(module, "config"):
            config: Any = module.config
            found[f"{name}.config.to_dict()"] = config.to_dict()
            found[f"{name}.config._attn_implementation"] = config._attn_implementation
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"tensor {name}"] = (_Itself(tensor), tensor._version, tensor.requires_grad)
    found["generation config"] = model.generation_config.to_dict()  # type: ignore[union-attr, operator]
    return found | process()


def process() -> dict[str, Any]:
    """Tables of torch and transformers that belong to the whole process, copied."""
    return {name: dict(table) for name, table in _tables().items()}


def _tables() -> dict[str, Any]:
    """The tables themselves; those of transformers only once it has been imported."""
    found = {name: getattr(torch.nn.modules.module, name) for name in GLOBAL_HOOKS}
    if models := sys.modules.get("transformers.modeling_utils"):
        found["attention table"] = models.AttentionInterface._global_mapping
        found["local attention table"] = models.ALL_ATTENTION_FUNCTIONS._local_mapping
    if masks := sys.modules.get("transformers.masking_utils"):
        found["mask table"] = masks.AttentionMaskInterface._global_mapping
    return found


SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, lambda device: _default_device(device)),
    "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic mode": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch's flash attention": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    "the environment variables": (lambda: dict(os.environ), lambda found: _environment(found)),
}
"""Settings of the process: how each is read, and how it is put back."""


def settings() -> dict[str, Any]:
    """Every setting, by a readable name."""
    return {name: read() for name, (read, _) in SETTINGS.items()}


def _default_device(device: torch.device) -> None:
    if torch.get_default_device() != device:  # setting it, even to what it is, slows every later call
        torch.set_default_device(None if device.type == "cpu" else device)


def _environment(found: dict[str, str]) -> None:
    for name in os.environ.keys() - found.keys():
        del os.environ[name]
    os.environ.update(found)


@contextmanager
def contained() -> Iterator[None]:
    """Undo what the body changes in tables and settings of the process, so that nobody else sees it."""
    before, old = process(), settings()
    try:
        yield
    finally:
        for name, table in _tables().items():
            if name in before and dict(table) != before[name]:
                table.clear()
                table.update(before[name])
        for name, value in settings().items():
            if value != old[name]:
                SETTINGS[name][1](old[name])


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs between two snapshots, sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """The body must leave the models as it found them; raises AssertionError with the names of what changed."""
    before = [snapshot(model) for model in models]
    yield
    for model, old in zip(models, before, strict=True):
        assert changes(old, snapshot(model)) == []
