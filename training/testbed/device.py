"""Where training computes: the device, the precision of its matrix products, what is on by default there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch

from vtprune.core.errors import LoadError
from vtprune.loading import pick_device

Precision = Literal["auto", "float32", "bfloat16"]
_MOST_WORKERS: Final = 8


@dataclass(frozen=True)
class Compute:
    """device: holds weights and batches. dtype: of matrix products under autocast, float32 or bfloat16; weights and
    optimiser states are float32 always."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def describe(self) -> dict[str, str]:
        """Device and precision in words, for the log."""
        name = torch.cuda.get_device_name(self.device) if self.cuda else "CPU"
        return {"device": name, "precision": str(self.dtype).removeprefix("torch.")}


CPU: Final = Compute(torch.device("cpu"))


def choose(name: str = "auto", precision: Precision = "auto") -> Compute:
    """The device of that name (``auto``: CUDA if there is one; ``cpu``, ``cuda``, ``cuda:1``) and its precision.

    ``auto`` is bfloat16 on a CUDA device that has it in hardware, else float32; bfloat16 on a CPU is there for those
    that ask (it was slower than float32 where it was tried). Nothing falls back: what is asked for and not here raises.

    Raises:
        LoadError: for a device that is unknown, not here or not one that training knows, an unknown precision, and
            bfloat16 on a CUDA device without it.
    """
    device = pick_device(name)
    if device.type not in ("cpu", "cuda"):
        raise LoadError(f"device {name!r} is not one that training knows; use auto, cpu, cuda, cuda:0, ...")
    if precision not in get_args(Precision):
        raise LoadError(f"unknown precision {precision!r}; use {', '.join(get_args(Precision))}")
    if device.type == "cpu":
        return Compute(torch.device("cpu"), torch.bfloat16 if precision == "bfloat16" else torch.float32)
    device = torch.device("cuda", device.index or 0)
    able = torch.cuda.get_device_capability(device)[0] >= 8  # Ampere; older ones emulate it
    if precision == "bfloat16" and not able:
        raise LoadError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use --precision float32")
    return Compute(device, torch.bfloat16 if able and precision != "float32" else torch.float32)


def settle(compute: Compute, *, tf32: bool) -> None:
    """Process-wide settings of a CUDA device: it becomes the current one, and float32 products may use TF32 or not.

    Nothing changes for a CPU.
    """
    if compute.cuda:
        torch.cuda.set_device(compute.device)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32


def default_workers(compute: Compute, draws: str) -> int:
    """Processes that draw batches: none on a CPU, where they would take cores from the training, and none where one
    random stream goes from step to step; else as many as there are cores to spare, at most eight."""
    if not compute.cuda or draws == "sequence":
        return 0
    return max(0, min(_MOST_WORKERS, len(os.sched_getaffinity(0)) - 1))
