"""Models under `torch.compile`.

Compiled code does not notice that hooks were put on or taken off: PyTorch skips that guard for speed. A model that was
compiled and run before a recipe became active would go on unpruned, without a word. Compiled code is therefore thrown
away whenever hooks change; what is still used compiles again at its next call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside what ``torch.compile(model)`` returned; any other model is returned as it is."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def forget_compiled() -> None:
    """Throw away all compiled code of the process, if there is any."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and getattr(getattr(dynamo, "eval_frame", None), "cached_backends", True):
        torch.compiler.reset()


def uncompilable(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which runs as it is written also where a compiled model calls it.

    What components compute with counts and fractions is not for a compiler, which turns a size that changes into a
    symbol. Nothing is imported for it: without dynamo there is nothing to keep out.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        dynamo: Any = sys.modules.get("torch._dynamo")
        plain: Callable[P, R] = function if dynamo is None else dynamo.disable(function)
        return plain(*args, **kwargs)

    return call
