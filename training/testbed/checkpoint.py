"""Checkpoints: written from any device, read on any device, and only into the run that wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.testbed.stages import RunError


def on_cpu(value: Any) -> Any:
    """The same nested dicts and lists with every tensor on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: on_cpu(one) for key, one in value.items()}
    return [on_cpu(one) for one in value] if isinstance(value, list) else value


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`, all of it or nothing."""
    part = path.with_suffix(".part")
    torch.save(on_cpu(state), part)
    part.replace(path)


def load(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What `save` wrote, on the CPU. run: model, seed and draws of the run that goes on.

    Raises:
        RunError: if another run wrote it.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    written = state.get("run", {})
    if differing := [
        f"{key} {written.get(key)!r}, now {value!r}" for key, value in run.items() if written.get(key) != value
    ]:
        raise RunError(f"{path} is of another run ({'; '.join(differing)}): use another --out, or the same options")
    return state


def restore(tuner: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's state, but keep whether it is fused: that belongs to the device, not to the run."""
    groups = [
        {**saved, **{name: mine[name] for name in ("fused", "foreach") if name in mine}}
        for saved, mine in zip(state["param_groups"], tuner.param_groups, strict=True)
    ]
    tuner.load_state_dict({**state, "param_groups": groups})
