"""A plan for people: tables and sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from vtprune.study.factorial import Refusal
from vtprune.study.grid import SEED
from vtprune.study.labels import model_labels, task_labels

if TYPE_CHECKING:
    from vtprune.study.plan import Plan
    from vtprune.study.run import Progress

SHOWN = 4
"""Of what is refused for one reason, how many are named."""


def plan_table(plan: Plan) -> Table:
    """Model, task, variants (without seeds), seeds, samples of each cell and answers in all, with totals."""
    table = Table(title=f"study {plan.study.name}", title_justify="left", box=None, pad_edge=False, show_footer=True)
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    sizes: dict[tuple[str, str], int | None] = {}
    for cell, model, task in zip(plan.cells, model_labels(plan.cells), task_labels(plan.cells), strict=True):
        axes = {axis: value for axis, value in cell.variant.axes.items() if axis.rpartition(".")[2] != SEED}
        groups[model, task][f"{cell.variant.label} {sorted(axes.items(), key=str)}"] += 1
        sizes[model, task] = plan.sizes.get(cell.id)
    variants = sum(map(len, groups.values()))
    totals = ("in all", "", str(variants), "", str(len(plan.cells)), "", _count(plan.samples))
    names = ("model", "task", "variants", "seeds", "cells", "samples each", "answers")
    for place, (name, total) in enumerate(zip(names, totals, strict=True)):
        table.add_column(name, footer=total, justify="left" if place < 2 else "right", no_wrap=place > 1)
    for (model, task), seeds in groups.items():
        cells = seeds.total()
        size = sizes[model, task]
        answers = None if size is None else size * cells
        most = max(seeds.values())
        table.add_row(model, task, str(len(seeds)), str(most), str(cells), _count(size), _count(answers))
    return table


def _count(number: int | None) -> str:
    return "all" if number is None else str(number)


def cost_line(progress: Progress) -> str:
    """What is left, in FLOPs and in time."""
    if not progress.partial + progress.missing + progress.failed:
        return "nothing is left to run"
    flops = "not known" if progress.flops is None else f"about {_flops(progress.flops)}"
    time = (
        "not known until a cell of every model has run"
        if progress.seconds is None
        else f"about {_duration(progress.seconds)} with one worker, at the speed of the cells that have run"
    )
    return f"estimated cost of what is left (rough): {flops}; time {time}"


def _flops(number: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e9:.3g} GFLOP"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def failures(failed: Mapping[str, str]) -> Iterator[str]:
    """One sentence for each error. failed: error message of each cell that failed, by the cell's name."""
    by_error: dict[str, list[str]] = defaultdict(list)
    for name, error in failed.items():
        by_error[error].append(name)
    for error, names in by_error.items():
        yield f"failed: {listed(names)}: {error}"


def refusals(refused: Sequence[Refusal]) -> Iterator[str]:
    """One sentence for each reason."""
    by_reason: dict[tuple[str | None, str], list[str]] = defaultdict(list)
    for refusal in refused:
        by_reason[refusal.model, refusal.reason].append(refusal.what)
    for (model, reason), names in by_reason.items():
        where = f" on {model}" if model else ""
        yield f"refused{where}: {listed(names)}: {reason}"


def listed(names: Iterable[str]) -> str:
    """The first few names, each once, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
