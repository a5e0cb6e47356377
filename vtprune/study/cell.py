"""A cell: one variant on one model and one task, the unit of work of a study.

A cell's id is a hash of everything that acts on its results. What only names or groups it (labels, axes) is not in the
id, so two studies that ask for the same thing find the same cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["full", "baseline", "control", "recipe"]


@dataclass(frozen=True)
class ModelRef:
    """Which model, and how it is loaded.

    id: ``testbed/NAME``, a Hub id or a local directory. dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    attn: an attention implementation of transformers, or None for the model's own. device: ``auto``, ``cpu``, ``cuda``.
    revision: branch, tag or commit of a Hub id, None for ``main``; a plan takes its commit in its place. Folders and
    testbed models have none.
    """

    id: str
    dtype: str = "auto"
    attn: str | None = None
    device: str = "auto"
    revision: str | None = None


@dataclass(frozen=True)
class Variant:
    """What is done to the model.

    label: what tables and figures call it, without its axes ("fastv"). role: ``full`` (no pruning), ``baseline``,
    ``control`` or ``recipe``. recipe: `Recipe.to_dict`, or None for the unpruned model. downsample: share of the
    image's pixels that is left before the model sees it, or None. axes: the values of the study's axes that made it
    (``{"budget": 0.25, "seed": 0}``). of: the label of the recipe that a control belongs to.
    """

    label: str
    role: Role
    recipe: Mapping[str, Any] | None = None
    downsample: float | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    of: str | None = None

    @property
    def name(self) -> str:
        """Label and axes, e.g. ``fastv budget=0.25``; unique among the variants of a study."""
        return " ".join([self.label, *(f"{axis.rpartition('.')[2]}={value}" for axis, value in self.axes.items())])


@dataclass(frozen=True)
class Cell:
    """identity: JSON-ready, everything that acts; task: `dump` of the task; limit: number of samples, None for all."""

    model: ModelRef
    task: Mapping[str, Any]
    variant: Variant
    limit: int | None
    batch_size: int
    identity: Mapping[str, Any]
    keep_indices: int = 0
    """For how many samples the kept indices are stored, for overlays."""

    @property
    def id(self) -> str:
        """Twenty hex digits of the SHA-256 of the identity."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def name(self) -> str:
        """Model, task and variant, for people."""
        return f"{self.model.id} / {self.task['name']} / {self.variant.name}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` is its inverse."""
        return {
            "id": self.id,
            "model": vars(self.model),
            "task": dict(self.task),
            "variant": {**vars(self.variant), "axes": dict(self.variant.axes)},
            "limit": self.limit,
            "batch_size": self.batch_size,
            "keep_indices": self.keep_indices,
            "identity": dict(self.identity),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """The cell that `to_dict` wrote."""
        return cls(
            model=ModelRef(**data["model"]),
            task=data["task"],
            variant=Variant(**data["variant"]),
            limit=data["limit"],
            batch_size=data["batch_size"],
            identity=data["identity"],
            keep_indices=data["keep_indices"],
        )
