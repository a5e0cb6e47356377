"""What a person sees while a study runs: a bar and a table on a terminal, a line per cell elsewhere.

All of it is read from the store, so that it is the same for every executor and also shows what other processes do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vtprune.study.cell import Cell
from vtprune.study.labels import model_labels, task_labels
from vtprune.study.store import Store, failure_text
from vtprune.study.store.tail import Tail

PAUSE = 0.2  # seconds between two looks at the folder
ROWS = 12  # of the table


def total_samples(cells: Sequence[Cell], finished: dict[str, int]) -> int | None:
    """Samples of all cells, or None if that cannot be known yet.

    finished: samples of the finished cells by id. A task may have fewer samples than the limit, which shows when its
    first cell is finished.
    """
    known = {(repr(cell.task), cell.limit): finished[cell.id] for cell in cells if cell.id in finished}
    counts = [known.get((repr(cell.task), cell.limit), cell.limit) for cell in cells]
    return None if None in counts else sum(count for count in counts if count is not None)


class StudyProgress:
    """A `vtprune.study.executors.Listener`.

    console: where it is shown; a bar and a table if that is a terminal, else one line for each cell that ends.
    """

    def __init__(self, store: Store, cells: Sequence[Cell], console: Console | None = None) -> None:
        self._store, self._cells = store, list(cells)
        self._console = console or Console()
        self._names = _names(self._cells)
        self._tails = {cell.id: Tail(store.cell_file(cell)) for cell in self._cells}
        self._attempts = {cell.id: store.attempts(cell) for cell in self._cells}
        self._open = list(self._cells)
        self._latest: list[Cell] = []
        self._failures: dict[str, str] = {}  # what was said of a failure: the first cell with it
        self._failed = self._now = 0
        self._started = self._looked = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("samples", total=None, rate="", failed="")
        self._live: Live | None = None

    def begin(self) -> None:
        """Count what is there; show the bar."""
        self._look(count=False)
        self._started = time.monotonic()
        self._bar.reset(self._task, completed=self._samples, total=self._total)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=4)
            self._live.start()

    def update(self) -> None:
        """Look at the folder, unless it was looked at just now."""
        if time.monotonic() - self._looked >= PAUSE:
            self._look()

    def end(self) -> None:
        """Show the final state and leave it on the screen."""
        self._look()
        if self._live is not None:
            self._live.stop()

    @property
    def _samples(self) -> int:
        return sum(tail.samples for tail in self._tails.values())

    @property
    def _total(self) -> int | None:
        finished = {cell: tail.samples for cell, tail in self._tails.items() if tail.finished}
        return total_samples(self._cells, finished)

    def _look(self, count: bool = True) -> None:
        for cell in list(self._open):
            tail = self._tails[cell.id]
            new = tail.update()
            self._now += new if count else 0
            if tail.finished:
                self._ended(cell, f"accuracy {tail.accuracy:.3f}, {tail.samples} samples", count)
                self._latest.append(cell)
            elif (failure := self._store.failure(cell)) and failure["attempts"] > self._attempts[cell.id]:
                self._failed += 1
                first = self._failures.setdefault(text := failure_text(failure), cell.id)
                self._ended(cell, f"failed: {text if first == cell.id else f'as {self._names[first]}'}", count)
        self._looked = time.monotonic()
        rate = self._now / max(self._looked - self._started, 1e-9)
        self._bar.update(
            self._task,
            completed=self._samples,
            total=self._total,
            rate=f"{rate:.1f} samples/s" if self._now else "",
            failed=f"{self._failed} failed" if self._failed else "",
        )
        if self._live is not None:
            self._live.update(self._picture())

    def _ended(self, cell: Cell, how: str, show: bool) -> None:
        self._open.remove(cell)
        if show and self._live is None:
            done = len(self._cells) - len(self._open)
            line = " ".join(f"[{done}/{len(self._cells)}] {self._names[cell.id]}: {how}".split())
            self._console.print(Text(line), soft_wrap=True)

    def _picture(self) -> Group:
        """The bar and the cells that were finished last."""
        rows = min(ROWS, max(1, self._console.height - 8))
        table = Table("finished", "accuracy", "samples", box=None)
        for cell in self._latest[-rows:]:
            tail = self._tails[cell.id]
            table.add_row(Text(self._names[cell.id]), f"{tail.accuracy:.3f}", str(tail.samples))
        above = len(self._latest) - rows
        if above > 0:
            table.caption = f"and {above} more before them"
        return Group(table, self._bar) if self._latest else Group(self._bar)


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """For each cell the variant's name, with model and task where there are several."""
    models, tasks = model_labels(cells), task_labels(cells)
    names = {}
    for cell, model, task in zip(cells, models, tasks, strict=True):
        several = [name for name, of in ((model, models), (task, tasks)) if len(set(of)) > 1]
        names[cell.id] = " / ".join([*several, cell.variant.name])
    return names
