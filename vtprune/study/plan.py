"""The plan of a study: every cell, what was refused and why, and what it will cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from vtprune.core.engine.plan import bind
from vtprune.core.errors import BindingError, LoadError, UnsupportedModelError, VtpruneError
from vtprune.core.lookup import adapter_of, locate
from vtprune.core.provenance import components
from vtprune.core.recipe import Recipe
from vtprune.core.spec import dump
from vtprune.core.task import Sample, Task
from vtprune.study import identity
from vtprune.study.cell import Cell, ModelRef, Variant
from vtprune.study.estimate import Workload, sample_flops, workload
from vtprune.study.factorial import Refusal, factorial
from vtprune.study.file import StudyError, StudyFile
from vtprune.study.grid import SEED, variants
from vtprune.study.names import FACTORIAL, LENT
from vtprune.study.skeleton import skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PEEK = 8
"""How many samples of a task are looked at while planning."""
REGIONS_PEEK = 256
"""How many are looked at, at most, for regions, where the task does not say whether it has any."""


@dataclass(frozen=True)
class Merged:
    """A variant that is planned under another one's name, being the same thing.

    name, label, of: its own (see `Variant`); same_as: the name of the one that is planned; arm: that without its seed.
    """

    name: str
    label: str
    of: str | None
    same_as: str
    arm: str

    def __str__(self) -> str:
        return f"{self.name} is the same as {self.same_as}; planned once, under the latter name"


@dataclass(frozen=True)
class Plan:
    """cells: in the order in which they run, each id once. refused: what cannot run, with reasons. merged: what is
    planned once under two names. notes: what could not be checked or estimated. flops: of each cell by id, roughly;
    cells without an estimate are missing. sizes: samples of each cell by id, at most; where that is not known, it is
    missing."""

    study: StudyFile
    cells: tuple[Cell, ...]
    refused: tuple[Refusal, ...]
    merged: tuple[Merged, ...]
    notes: tuple[str, ...]
    flops: Mapping[str, float]
    sizes: Mapping[str, int]

    @property
    def samples(self) -> int | None:
        """Answers to generate in all, at most; None where that is not known."""
        known = all(cell.id in self.sizes for cell in self.cells)
        return sum(self.sizes[cell.id] for cell in self.cells) if known else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the study with what was refused, merged and noted, as the store keeps it."""
        return {
            **self.study.to_dict(),
            "refused": [asdict(refusal) for refusal in self.refused],
            "merged": [asdict(merged) for merged in self.merged],
            "notes": list(self.notes),
        }


def make_plan(study: StudyFile) -> Plan:
    """Every cell of a study: models x tasks x variants.

    Recipes are checked against each model (without its weights) and each task; what does not fit is refused with the
    reason. Raises StudyError naming every recipe, axis, control, model and task that cannot be planned at all.
    """
    problems: list[str] = []
    found: list[Variant] = []
    refused: list[Refusal] = []
    for make in (lambda: (variants(study), []), lambda: factorial(study)):
        try:
            made, no = make()
            found += made
            refused += no
        except StudyError as error:
            problems += error.problems
    notes: list[str] = []
    models = []
    for ref in study.models:
        try:
            pin = identity.pinned(ref, notes)
            models.append((pin, identity.model_identity(pin), _skeleton(pin, notes)))
        except VtpruneError as error:
            problems.append(f"model {ref.id!r}: {error}")
    tasks = []
    for task in study.tasks:
        plain = dump(task)
        try:
            peek = list(islice(task.samples(), PEEK))
            identified = identity.task_identity(task, plain)  # may read every picture
            tasks.append((task, plain, peek, identified, _size(task, study.limit)))
        except VtpruneError as error:
            problems.append(f"task {plain['name']!r}: {str(error).replace(chr(10), chr(10) + '  ')}")
            continue
        if not peek:
            problems.append(f"task {plain['name']!r} has no samples")
    if problems:
        raise StudyError(problems, f"study {study.name!r}")
    refused += _refused_downsampling(study, found)
    cells: dict[str, Cell] = {}
    merged: list[Merged] = []
    flops: dict[str, float] = {}
    settings = identity.settings_identity(study.limit, study.batch_size, study.threads, study.keep_indices)
    names = [identity.variant_identity(variant) for variant in found]
    sizes: dict[str, int] = {}
    places = [cache(partial(_without_regions, task, study.limit)) for task in study.tasks]
    for ref, model_part, bones in models:
        fits = _fitting(found, ref, bones, refused)
        for (task, plain, peek, task_part, size), place in zip(tasks, places, strict=True):
            load = _workload(ref, bones, task, plain["name"], peek, notes)
            for number, adapter_part in fits.items():
                variant = found[number]
                if reason := _unfit(variant, place):
                    refused.append(Refusal(_without_levels(variant), f"task {plain['name']!r}: {reason}", ref.id))
                    continue
                parts = {"model": model_part, "task": task_part, "variant": names[number], **adapter_part, **settings}
                cell = Cell(ref, plain, variant, study.limit, study.batch_size, parts, study.keep_indices)
                if cell.id in cells:
                    merged.append(_merged(cells[cell.id].variant, variant))
                    cells[cell.id] = _merge(cells[cell.id], cell)
                    continue
                cells[cell.id] = cell
                if size is not None:
                    sizes[cell.id] = size
                if load is not None and bones is not None and size is not None:
                    flops[cell.id] = size * sample_flops(bones[0], load, variant)
    unique = tuple(dict.fromkeys(refused))
    return Plan(study, tuple(cells.values()), unique, tuple(dict.fromkeys(merged)), tuple(notes), flops, sizes)


Bones = tuple["PreTrainedModel", Any] | None


def _skeleton(ref: ModelRef, notes: list[str]) -> Bones:
    """Raises UnsupportedModelError or PluginError for a model that has no adapter that fits it."""
    unchecked = f"{ref.id}: recipes could not be checked against it and its cost is not known"
    if not identity.is_pinned(ref):  # its configuration was asked for just now, which takes long where there is no Hub
        notes.append(f"{unchecked}, as its configuration is not to be had")
        return None
    try:
        bones = skeleton(ref)
    except LoadError as error:
        notes.append(f"{unchecked}: {error}")
        return None
    locate(bones[0])
    return bones


def _fitting(found: list[Variant], ref: ModelRef, bones: Bones, refused: list[Refusal]) -> dict[int, dict[str, Any]]:
    """Places of the variants that can be bound to a model, with the identity of their adapters; the others are
    refused."""
    fits = {}
    for number, variant in enumerate(found):
        adapter = None
        if bones is not None and variant.recipe is None:
            adapter = adapter_of(bones[0])
        elif bones is not None:
            try:
                adapter = bind(Recipe.parse(variant.recipe), bones[0]).parts.adapter
            except (BindingError, UnsupportedModelError) as error:  # the latter of an adapter that a recipe chose
                what, expected = _without_levels(variant), variant.label == FACTORIAL
                reason = "; ".join(error.problems) if isinstance(error, BindingError) else str(error)
                refused.append(Refusal(what, reason, ref.id, expected))
                continue
        fits[number] = {} if adapter is None else identity.adapter_identity(adapter)
    return fits


def _size(task: Task, limit: int | None) -> int | None:
    """Samples of a task, at most; None if that is not known."""
    known = [number for number in (limit, task.sample_count()) if number is not None]
    return min(known, default=None)


def _without_levels(variant: Variant) -> str:
    """The name without budget and seed, on which binding does not depend."""
    axes = {axis: value for axis, value in variant.axes.items() if axis not in ("budget", SEED)}
    return " x ".join(map(str, axes.values())) if variant.label == FACTORIAL else replace(variant, axes=axes).name


def _workload(
    ref: ModelRef, bones: Bones, task: Task, name: str, peek: list[Sample], notes: list[str]
) -> Workload | None:
    if bones is None:
        return None
    try:
        return workload(*bones, peek, task.max_new_tokens)
    except (VtpruneError, StopIteration) as error:
        notes.append(f"{ref.id}, task {name!r}: the cost is not known: {error}")
        return None


def _unfit(variant: Variant, without_regions: Callable[[], str | None]) -> str | None:
    """Why a variant cannot run on a task, or None. without_regions: of the task; called only if it matters."""
    if variant.recipe is None:
        return None
    parts = components(list(Recipe.parse(variant.recipe).stages))
    if not any(need.kind == "annotation" for part in parts for need in part.needs()):
        return None
    seen = without_regions()
    return seen and f"it does not say where answers are ({seen}), which this needs"


def _without_regions(task: Task, limit: int | None) -> str | None:
    """That none of the samples has regions, in words; None if one has."""
    known = task.has_regions(limit)
    if known is not None:
        which = "its samples" if limit is None else f"its first {limit} samples"
        return None if known else f"none of {which} has regions"
    located = []
    for sample in islice(task.samples(), min(limit or REGIONS_PEEK, REGIONS_PEEK)):
        located.append(bool(sample.regions))
        if located[-1]:
            return None
    return f"none of its first {len(located)} samples has regions; a task with later ones can say so with has_regions"


def _refused_downsampling(study: StudyFile, found: Iterable[Variant]) -> list[Refusal]:
    if "downsample" in study.baselines.without:
        return []
    have = {str(variant.axes.get("budget")) for variant in found if variant.label == "downsample"}
    wanted = {str(variant.axes.get("budget")) for variant in found if variant.role == "baseline"}
    reason = "a share of the pixels is known only for a budget above 0 that is a share of the tokens (keep_ratio)"
    return [Refusal(f"downsample budget={level}", reason, expected=True) for level in sorted(wanted - have)]


def _merged(first: Variant, second: Variant) -> Merged:
    seedless = replace(first, axes={axis: value for axis, value in first.axes.items() if axis != "seed"})
    return Merged(second.name, second.label, second.of, first.name, seedless.name)


def _merge(first: Cell, second: Cell) -> Cell:
    """One cell for two variants that are the same thing. A combination of the factorial lends its axes to the cell that
    was there, so that attribution finds its design complete."""
    if second.variant.label == FACTORIAL:
        axes = {**first.variant.axes, **{f"{LENT}{axis}": value for axis, value in second.variant.axes.items()}}
        return replace(first, variant=replace(first.variant, axes=axes))
    return first
